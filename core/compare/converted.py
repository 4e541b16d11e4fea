"""F32 GGUF files of Hugging Face folders that were compared, kept in the user's cache by what they were made of.

The newest few stay, and those somebody reads. How a folder is converted is in core/export/convert.py.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core import models, package_index
from core.config import cache_folder
from core.errors import ArtifactError, ProcessFailed
from core.events import Note, OnEvent
from core.export.convert import convert
from core.files import digest_of, write_atomic
from core.toolchain import Toolchain
from core.train import sealed
from core.workspace import MANIFEST

KEEP = 2  # beside those in use: who compares two folders again converts neither
FILE = "model-F32.gguf"
_TIMEOUT_S = 7200.0


@contextmanager
def converted(folder: Path, toolchain: Toolchain, on_event: OnEvent) -> Iterator[Path]:
    """Yield a verified F32 GGUF of a Hugging Face folder, made where the same bytes were not converted before.

    It stays for as long as the block runs; one process converts at a time. ProcessFailed with the converter's words; DiskFull.
    """
    root = cache_folder() / "converted"
    target = root / key_of(folder, toolchain)
    with ExitStack() as stack:
        with package_index.hold(root):
            root.mkdir(exist_ok=True)
            _sweep(root)
            if not _is_whole(target, on_event):
                _make(folder, target, toolchain, on_event)
            os.utime(target)
            stack.enter_context(_reading(target))
            _thin(root)
        yield target / FILE


def key_of(folder: Path, toolchain: Toolchain) -> str:
    """Return what a folder's converted file is kept by: its name and bytes, and the converter."""
    return digest_of([folder.resolve().name, models.bytes_hash(folder), toolchain.identity()])[:16]


def _is_whole(target: Path, on_event: OnEvent) -> bool:
    if not target.is_dir():
        return False
    try:
        sealed.check(target)
    except ArtifactError as error:
        on_event(Note(stage=None, text=f"{target.name} is converted anew: {error.problem}", level="warning"))
        return False
    return True


def _make(folder: Path, target: Path, toolchain: Toolchain, on_event: OnEvent) -> None:
    with package_index.scratch_beside(target) as scratch:
        made, log = scratch / FILE, scratch / FILE.replace(".gguf", ".log")
        try:
            convert(folder, made, folder.resolve().name, toolchain, on_event, timeout_s=_TIMEOUT_S)
        except ProcessFailed as error:
            raise _refused(folder, log, target.name, error) from error
        log.unlink()
        sealed.seal(scratch, {"folder": folder.resolve().name, "converter": toolchain.identity()})
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)


def _refused(folder: Path, log: Path, key: str, error: ProcessFailed) -> ProcessFailed:
    """Return the error with the folder's name and a log that outlives the scratch folder."""
    kept = cache_folder() / "logs" / f"convert-{key}.log"
    if log.is_file():
        write_atomic(kept, log.read_bytes())
    return ProcessFailed(
        f"{folder} cannot be converted: {error.problem}",
        remedy=f"Read {kept}, mend what it names in that folder, then run the same command again.",
    )


def _sweep(root: Path) -> None:
    """Remove what a killed process left half made or half deleted."""
    for leftover in root.glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _thin(root: Path) -> None:
    """Delete the files nobody reads, but for the KEEP that were used last."""
    found = sorted((path.parent for path in root.glob(f"*/{MANIFEST}")), key=lambda folder: folder.stat().st_mtime)
    for old in found[:-KEEP]:
        if not _is_read(old):
            aside = old.rename(old.with_name(f".{old.name}"))  # what is half deleted must not look whole
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Tell every process that a folder is read; the kernel lets go when the reader dies."""
    with (folder / MANIFEST).open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        yield


def _is_read(folder: Path) -> bool:
    with (folder / MANIFEST).open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
