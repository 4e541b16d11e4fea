"""What a system runs in, from recorded texts of real systems."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Severity
from core.env.machine.surroundings import (
    Surroundings,
    filesystem_of,
    read_surroundings,
    surroundings_findings,
    windows_findings,
    wsl_version,
)

WSL2 = "5.15.153.1-microsoft-standard-WSL2"
WSL1 = "4.4.0-19041-Microsoft"
MOUNTS = (
    "/dev/sdc / ext4 rw,relatime 0 0\n"
    "C:\\134 /mnt/c 9p rw,dirsync 0 0\n"
    "tmpfs /mnt/my\\040disk tmpfs rw 0 0\n"
    "nas:/x /mnt/c/deep nfs4 rw 0 0\n"
    "broken\n"
)


def around(release: str = "6.1.0", texts: dict[str, str] | None = None, paths: tuple[str, ...] = ()) -> Surroundings:
    return read_surroundings("Linux", release, (texts or {}).get, lambda path: path in paths)


@pytest.mark.parametrize(
    ("release", "version"), [(WSL2, 2), (WSL1, 1), ("6.8.0-45-generic", None), ("5.4.0-microsoft-custom", 2), ("", None)]
)
def test_both_versions_of_wsl_are_known_by_their_kernel(release: str, version: int | None) -> None:
    assert wsl_version(release) == version


@pytest.mark.parametrize(
    ("texts", "paths", "container"),
    [
        ({"/proc/1/cgroup": "0::/"}, ("/.dockerenv",), "docker"),
        ({"/proc/1/cgroup": "12:cpu:/docker/ab12\n"}, (), "docker"),
        ({"/proc/1/cgroup": "0::/kubepods.slice/pod1\n"}, ("/.dockerenv",), "kubernetes"),
        ({}, ("/run/.containerenv",), "podman"),
        ({"/proc/2/comm": "kthreadd\n"}, ("/.dockerenv",), None),
        ({}, (), None),
    ],
)
def test_a_container_is_known_and_a_disk_made_from_an_image_is_none(
    texts: dict[str, str], paths: tuple[str, ...], container: str | None
) -> None:
    assert around(texts=texts, paths=paths).container == container


def test_a_virtual_machine_is_known_by_its_processor_or_its_hypervisor() -> None:
    assert around(texts={"/proc/cpuinfo": "flags\t\t: fpu hypervisor sse\n"}).virtual is not None
    assert around(texts={"/sys/hypervisor/type": "xen\n"}).virtual == "xen"
    assert around(texts={"/proc/cpuinfo": "flags\t\t: fpu sse\n"}).virtual is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me", "ext4"),
        ("/mnt/c/work", "9p"),
        ("/mnt/c/deep/er", "nfs4"),
        ("/mnt/my disk/x", "tmpfs"),
        ("/mnt/cd", "ext4"),
    ],
)
def test_the_longest_mount_tells_the_file_system(path: str, kind: str) -> None:
    assert filesystem_of(Path(path), MOUNTS) == kind


@given(st.text())
def test_any_text_for_mounts_gives_an_answer(text: str) -> None:
    filesystem_of(Path("/a/b"), text)


def test_native_windows_is_sent_to_wsl_2() -> None:
    (finding,) = windows_findings("Windows")

    assert finding.severity is Severity.ERROR
    assert finding.remedy_argv == ("wsl", "--install")
    assert surroundings_findings(around().model_copy(update={"system": "Windows"}), {})[0].code == "windows"
    assert windows_findings("Linux") == windows_findings("Darwin") == []


def test_wsl_1_blocks_and_a_folder_on_a_windows_drive_warns() -> None:
    (old,) = surroundings_findings(around(WSL1), {})
    (slow,) = surroundings_findings(around(WSL2), {"/mnt/c/work": "9p", "/home/me": "ext4"})

    assert old.severity is Severity.ERROR
    assert "--set-version" in old.remedy
    assert slow.severity is Severity.WARNING
    assert slow.where == "/mnt/c/work"
    assert surroundings_findings(around(), {"/mnt/c": "9p"}) == []
