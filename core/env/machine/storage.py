"""The places a job writes to: where they really lie, how much is free there, whether and how fast they can be written."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from core.contract import Confidence, Contract, Finding, Severity
from core.env.machine.surroundings import filesystem_of

GB = 1e9
_CHUNK_BYTES = 4 << 20
_FORGETFUL = {"tmpfs", "ramfs"}


class Place(Contract):
    """A folder a job writes to; `real` is where it lies after links, `there` the nearest folder above that exists.

    `refused` is why a file cannot be written there, None when it can; `device` is the same for places on one file system.
    """

    name: str
    path: str
    real: str
    there: str
    device: int
    free_bytes: int
    filesystem: str | None
    refused: str | None


class Places(Contract):
    """All places a job writes to."""

    places: tuple[Place, ...]


class WriteSpeed(Contract):
    """How fast a file was written and synced, in MB/s (1e6)."""

    path: str
    bytes: int
    seconds: float
    mbs: float


def read(argument: dict[str, Any]) -> Places:
    """Read each of `places`, a mapping of names to paths; a mount that hangs ends this process, not its caller."""
    mounts = _mounts()
    return Places(places=tuple(_place(name, Path(path), mounts) for name, path in argument["places"].items()))


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _place(name: str, path: Path, mounts: str) -> Place:
    there = existing(path)
    real = path.resolve()
    return Place(
        name=name,
        path=str(path),
        real=str(real),
        there=str(there),
        device=there.stat().st_dev,
        free_bytes=shutil.disk_usage(there).free,
        filesystem=filesystem_of(there.resolve(), mounts),
        refused=refusal(there),
    )


def existing(path: Path) -> Path:
    """Return the path or its nearest folder above that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def refusal(folder: Path) -> str | None:
    """Return why a file cannot be written in a folder, None when it can."""
    probe = folder / f".probe-{os.getpid()}"
    try:
        probe.write_bytes(b"\0")
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None


def write_speed(folder: Path, seconds: float, most_bytes: int) -> WriteSpeed:
    """Write and sync a file for about `seconds`, at most `most_bytes`, and remove it; OSError as the system says."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".write-speed-{os.getpid()}"
    chunk = bytes(range(256)) * (_CHUNK_BYTES // 256)
    written = 0
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        started = time.perf_counter()
        while written < most_bytes and (not written or time.perf_counter() - started < seconds):
            written += os.write(handle, chunk)
            os.fdatasync(handle) if hasattr(os, "fdatasync") else os.fsync(handle)
        took = time.perf_counter() - started
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)
    return WriteSpeed(path=str(folder), bytes=written, seconds=took, mbs=written / took / 1e6)


def disk_findings(places: tuple[Place, ...], least_gb: float) -> list[Finding]:
    """Judge free space once for each file system."""
    held: dict[int, list[Place]] = {}
    for place in places:
        held.setdefault(place.device, []).append(place)
    return [found for group in held.values() if (found := _space(group, least_gb))]


def _space(group: list[Place], wanted_gb: float) -> Finding | None:
    free_gb = group[0].free_bytes / GB
    if free_gb >= wanted_gb:
        return None
    names, first = " and ".join(place.name for place in group), group[0]
    where = first.real if first.real == first.path else f"{first.path} -> {first.real}"
    return Finding(
        code="disk",
        severity=Severity.ERROR,
        where=where,
        evidence=f"{free_gb:.1f} GB free < env.min_free_disk_gb {wanted_gb:g} where the {names} lies",
        cause="the file system is nearly full",
        confidence=Confidence.HIGH,
        remedy="Free some space there, or name another place with --workspace, EDGEKILN_CACHE or HF_HOME.",
        verify_argv=("df", "-h", first.there),
    )


def refused_findings(places: tuple[Place, ...]) -> list[Finding]:
    """Name each place that cannot be written and the setting that moves it."""
    setting = {"workspace": "EDGEKILN_WORKSPACE", "cache": "EDGEKILN_CACHE", "model cache": "HF_HOME"}
    return [
        Finding(
            code="cache",
            severity=Severity.ERROR,
            where=place.path,
            evidence=f"a file cannot be written there: {place.refused}",
            cause="the folder belongs to somebody else or is read-only",
            confidence=Confidence.HIGH,
            remedy=f"Name a folder you may write: export {setting.get(place.name, 'EDGEKILN_CACHE')}=/path.",
            verify_argv=("test", "-w", place.path),
        )
        for place in places
        if place.refused is not None
    ]


def forgetful_findings(places: tuple[Place, ...]) -> list[Finding]:
    """Warn of a workspace that lies in memory."""
    return [
        Finding(
            code="disk",
            severity=Severity.WARNING,
            where=place.path,
            evidence=f"the {place.name} lies on {place.filesystem}",
            cause="that file system is kept in RAM: it is gone after a restart and takes memory from the job",
            remedy="Name a folder on a disk with --workspace.",
            verify_argv=("df", "-hT", place.there),
        )
        for place in places
        if place.name == "workspace" and place.filesystem in _FORGETFUL
    ]


def speed_findings(measured: WriteSpeed, least_mbs: float) -> list[Finding]:
    """Judge the write speed."""
    if measured.mbs >= least_mbs:
        return []
    return [
        Finding(
            code="disk-speed",
            severity=Severity.WARNING,
            where=measured.path,
            evidence=f"{measured.mbs:.1f} MB/s written and synced < env.min_write_mbs {least_mbs:g}",
            cause="a slow card or network disk, or somebody else is writing",
            confidence=Confidence.LOW,
            remedy="Put the workspace on a faster disk: checkpoints and models are hundreds of MB each.",
            verify_argv=("dd", "if=/dev/zero", f"of={measured.path}/.dd", "bs=4M", "count=16", "oflag=dsync"),
        )
    ]
