"""What the system runs in: container, WSL, hypervisor. Judged from texts and facts that are handed in; nothing is started."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from core.contract import Contract, Finding, Severity

Texts = Callable[[str], str | None]
"""Returns the text of a file by its path, None when it cannot be read: this machine's, or what a board sent."""

_CONTAINER_FILES = {"/.dockerenv": "docker", "/run/.containerenv": "podman"}
_CONTAINER_PATHS = (("kubepods", "kubernetes"), ("docker", "docker"), ("libpod", "podman"), ("lxc", "lxc"))
_WINDOWS_MOUNTS = {"9p", "drvfs", "v9fs"}  # how WSL shows the drives of Windows


class Surroundings(Contract):
    """What the system runs in; None where nothing tells of it."""

    system: str
    release: str
    container: str | None
    wsl: int | None
    virtual: str | None


def read_surroundings(system: str, release: str, texts: Texts, there: Callable[[str], bool]) -> Surroundings:
    """Return what the system runs in; `system` and `release` as `uname` tells them, `there` says whether a path exists."""
    return Surroundings(
        system=system,
        release=release,
        container=_container(texts, there),
        wsl=wsl_version(release),
        virtual=_hypervisor(texts),
    )


def _container(texts: Texts, there: Callable[[str], bool]) -> str | None:
    groups = texts("/proc/1/cgroup") or ""
    for mark, name in _CONTAINER_PATHS:
        if f"/{mark}" in groups:
            return name
    if (texts("/proc/2/comm") or "").strip() == "kthreadd":
        return None  # the kernel's own threads are seen: a disk made from an image keeps the image's marks
    return next((name for path, name in _CONTAINER_FILES.items() if there(path)), None)


def wsl_version(release: str) -> int | None:
    """Return 1 or 2 when a kernel's release names Windows' subsystem, else None.

    Version 1 has no Linux kernel and calls itself `4.4.0-19041-Microsoft`; version 2 is `5.15.90.1-microsoft-standard-WSL2`.
    """
    if "microsoft" not in release.lower():
        return None
    return 1 if re.match(r"4\.4\.\d+-\d+-Microsoft$", release) else 2


def _hypervisor(texts: Texts) -> str | None:
    if named := texts("/sys/hypervisor/type"):
        return named.strip()
    flags = re.search(r"^flags\s*:.*\bhypervisor\b", texts("/proc/cpuinfo") or "", flags=re.MULTILINE)
    return "a virtual machine (the processor's hypervisor flag)" if flags else None


def filesystem_of(path: Path, mounts: str) -> str | None:
    """Return the file system a path lies on, by the text of /proc/mounts; the last mount of the longest prefix counts."""
    best: tuple[int, str] | None = None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(_unescaped(fields[1]))
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), fields[2])
    return best[1] if best else None


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)  # proc(5): octal escapes of blanks


def surroundings_findings(found: Surroundings, filesystems: Mapping[str, str | None]) -> list[Finding]:
    """Judge the system; `filesystems` maps each place that is worked in to its file system."""
    findings = windows_findings(found.system)
    if found.wsl == 1:
        findings.append(
            Finding(
                code="wsl",
                severity=Severity.ERROR,
                where="WSL",
                evidence=f"the kernel is {found.release}: WSL 1",
                cause="WSL 1 has no Linux kernel: no GPU, no control groups, slow files",
                remedy="In PowerShell: wsl --set-version <distribution> 2",
                verify_argv=("uname", "-r"),
            )
        )
    slow = [place for place, kind in filesystems.items() if found.wsl and kind in _WINDOWS_MOUNTS]
    for place in slow:
        findings.append(
            Finding(
                code="wsl",
                severity=Severity.WARNING,
                where=place,
                evidence=f"it lies on a drive of Windows ({filesystems[place]})",
                cause="every file there is reached through the Windows host",
                remedy="Work in a folder of the Linux side, such as ~/edgekiln.",
            )
        )
    return findings


def windows_findings(system: str) -> list[Finding]:
    """Return the finding for native Windows, nothing for any other system; `system` as platform.system() names it."""
    if system != "Windows":
        return []
    return [
        Finding(
            code="windows",
            severity=Severity.ERROR,
            where="operating system",
            evidence="platform.system() is Windows",
            cause="edgekiln needs POSIX locks and process groups; bitsandbytes and llama.cpp are built for Linux here",
            remedy="Use WSL 2: run `wsl --install` in PowerShell, restart, then install edgekiln inside Ubuntu.",
            remedy_argv=("wsl", "--install"),
            verify_argv=("wsl", "--status"),
        )
    ]
