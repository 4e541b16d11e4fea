"""Folders whose manifest is written last and checked before use: checkpoints, materialised students."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from core.contract import Contract, FileRef
from core.errors import ArtifactMissing, FileTampered, ManifestBroken
from core.files import confine, sha256_of, sync_folder, write_atomic
from core.workspace import MANIFEST, describe_files

_DAMAGED = frozenset({errno.EIO, errno.EISDIR})
REMEDY = "Run the same command again: the folder is set aside and made anew."


class Sealed(Contract):
    """The manifest of a sealed folder; `about` says what wrote it."""

    files: tuple[FileRef, ...]
    about: dict[str, str]


def seal(folder: Path, about: dict[str, str]) -> Sealed:
    """Make a folder's files durable, then write the manifest; without it the folder counts as unfinished."""
    manifest = Sealed(files=durable(folder), about=about)
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=1).encode())
    sync_folder(folder)
    return manifest


def check(folder: Path) -> Sealed:
    """Verify every file by size and hash; ArtifactMissing, ManifestBroken or FileTampered says what is wrong."""
    manifest = _read(folder / MANIFEST)
    check_files(folder, manifest.files)
    return manifest


def durable(folder: Path) -> tuple[FileRef, ...]:
    """Describe a folder's files and make them outlive a power cut."""
    files = describe_files(folder, frozenset())
    for ref in files:
        _sync(folder / ref.path)
    return files


def check_files(folder: Path, files: Iterable[FileRef]) -> None:
    """Verify files by size and hash; FileTampered names the first that is missing, unreadable or other than described."""
    for ref in files:
        path = confine(folder, ref.path)
        if not path.is_file():
            raise FileTampered(f"{path} is missing", remedy=REMEDY)
        if (size := path.stat().st_size) != ref.bytes:
            raise FileTampered(f"{path} has {size} bytes, its manifest says {ref.bytes}", remedy=REMEDY)
        with damage_is_tampering(path):
            digest = sha256_of(path)
        if digest != ref.sha256:
            raise FileTampered(f"{path} has sha256 {digest[:12]}, its manifest says {ref.sha256[:12]}", remedy=REMEDY)


@contextmanager
def damage_is_tampering(path: Path) -> Iterator[None]:
    """Turn what a damaged disk or file system says of a file into FileTampered; any other OSError says nothing of the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DAMAGED:
            raise
        raise FileTampered(f"{path} cannot be read: {error.strerror}", remedy=REMEDY) from error


def _read(path: Path) -> Sealed:
    try:
        return Sealed.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactMissing(f"{path} is missing: the folder was never finished", remedy=REMEDY) from error
    except ValidationError as error:
        raise ManifestBroken(f"{path}: {error.errors()[0]['msg']}", remedy=REMEDY) from error


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
