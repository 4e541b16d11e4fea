"""Places on disk: real folders, links, files in the way, and a read-only mount where one can be made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.contract import Severity
from core.env.machine.storage import (
    Place,
    WriteSpeed,
    disk_findings,
    forgetful_findings,
    read,
    refused_findings,
    speed_findings,
    write_speed,
)


def places(**paths: Path) -> tuple[Place, ...]:
    return read({"places": {name: str(path) for name, path in paths.items()}}).places


def test_a_place_is_looked_at_where_it_really_lies(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "far")

    (place,) = places(cache=tmp_path / "cache")

    assert place.real == str(tmp_path / "far")
    assert place.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert place.refused is None
    assert list((tmp_path / "far").iterdir()) == []
    (finding,) = disk_findings((place,), 1e9)
    assert finding.where == f"{tmp_path}/cache -> {tmp_path}/far"


def test_a_folder_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    (place,) = places(cache=tmp_path / "a" / "b")

    assert (place.there, place.refused) == (str(tmp_path), None)
    assert not (tmp_path / "a").exists()


def test_too_little_disk_is_told_once_for_places_that_share_it(tmp_path: Path) -> None:
    (finding,) = disk_findings(places(workspace=tmp_path / "w", cache=tmp_path / "c"), 1e9)

    assert finding.severity is Severity.ERROR
    assert "< env.min_free_disk_gb 1e+09 where the workspace and cache lies" in finding.evidence
    assert disk_findings(places(workspace=tmp_path), 0) == []


def test_a_cache_that_cannot_be_written_names_the_setting_that_moves_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    cache, models = refused_findings(
        read({"places": {"cache": str(tmp_path / "file" / "cache"), "model cache": str(tmp_path / "file")}}).places
    )

    assert "Not a directory" in cache.evidence
    assert "EDGEKILN_CACHE" in cache.remedy
    assert "HF_HOME" in models.remedy


def test_a_read_only_cache_is_refused_although_this_user_may_do_everything(tmp_path: Path) -> None:
    """In a mount namespace of its own, so that the mount is gone with the child."""
    code = (
        f"from core.env.machine.storage import read; print(read({{'places': {{'cache': {str(tmp_path)!r}}}}})"
        ".places[0].refused)"
    )
    script = f'mount -t tmpfs -o ro tmpfs {tmp_path} && exec {sys.executable} -c "$CODE"'
    argv = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    done = subprocess.run(argv, env={**os.environ, "CODE": code}, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "Traceback" not in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()[:100]}")

    assert done.stdout.strip() == "Read-only file system"


def test_a_workspace_in_memory_is_a_warning(tmp_path: Path) -> None:
    (place,) = places(workspace=tmp_path)

    (finding,) = forgetful_findings((place.model_copy(update={"filesystem": "tmpfs"}),))

    assert finding.severity is Severity.WARNING
    assert forgetful_findings((place.model_copy(update={"filesystem": "ext4"}),)) == []


def test_the_write_speed_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    measured = write_speed(tmp_path, 0.05, 64 << 20)

    assert 4 << 20 <= measured.bytes <= 64 << 20
    assert measured.mbs == pytest.approx(measured.bytes / measured.seconds / 1e6)
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_a_warning() -> None:
    slow = WriteSpeed(path="/sd", bytes=10**7, seconds=2.0, mbs=5.0)

    (finding,) = speed_findings(slow, 20.0)

    assert finding.evidence == "5.0 MB/s written and synced < env.min_write_mbs 20"
    assert speed_findings(slow, 5.0) == []
