"""Files on disk: hashing, atomic writing, confinement of paths. What they mean is decided elsewhere."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from core.errors import DiskFull, PathEscapes

_CHUNK_BYTES = 1 << 20
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(path: Path) -> str:
    """Hash a file in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Serialise to the one JSON form used for hashing: sorted keys, no spaces, UTF-8."""
    return _CANONICAL.encode(value).encode()


def digest_of(value: Any) -> str:
    """Hash a JSON value in its canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or all of the new; DiskFull when there is no space.

    Any other OSError names the file that was asked for, not the scratch file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_full_is_an_error(path.parent), named(path):
        try:
            with scratch.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
    sync_folder(path.parent)


def append_line(path: Path, line: bytes) -> None:
    """Write a line behind what is there, in one call, so that a kill leaves no half of it between others; DiskFull.

    Where there is space for a part of it only, that part is taken away again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_is_an_error(path.parent):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            write_whole(handle, line + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(path.parent)


def write_whole(handle: int, data: bytes) -> None:
    """Append all of it or nothing: a full disk takes a part and says so only when the rest is written."""
    fcntl.flock(handle, fcntl.LOCK_EX)
    before = os.fstat(handle).st_size
    try:
        written = os.write(handle, data)
        while written < len(data):
            written += os.write(handle, data[written:])
    except OSError:
        os.ftruncate(handle, before)
        raise


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have an OSError name a file, whatever it was about."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records as JSON lines and return how many there were."""
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_is_an_error(path.parent), path.open("w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
        stream.flush()
        os.fsync(stream.fileno())
    return count


def replace_json_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records as JSON lines so that a reader sees the old ones or all of the new."""
    fresh = path.with_name(f".{path.name}.new")  # one name, so that what a kill leaves is written over
    write_json_lines(fresh, records)
    fresh.replace(path)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON lines file that edgekiln itself wrote."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def confine(root: Path, relative: str) -> Path:
    """Return `root/relative`; PathEscapes when it is absolute, climbs, or leaves the folder through a link."""
    pure = PurePosixPath(relative)
    target = root.joinpath(*pure.parts)
    if pure.is_absolute() or ".." in pure.parts or "\\" in relative or not pure.parts:
        raise _escape(root, relative)
    if not target.resolve().is_relative_to(root.resolve()):
        raise _escape(root, relative)
    return target


def _escape(root: Path, relative: str) -> PathEscapes:
    return PathEscapes(
        f"path {relative!r} leaves the folder {root}",
        remedy="Use a relative path below that folder, without '..' and without links that lead out.",
    )


@contextmanager
def disk_full_is_an_error(where: Path) -> Iterator[None]:
    """Turn ENOSPC, EDQUOT and EFBIG into DiskFull."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise disk_full(where) from error
        if error.errno == errno.EFBIG:
            raise DiskFull(
                f"a file in {where} would pass the limit on file sizes",
                remedy="Raise the limit (ulimit -f), then run the same command again.",
            ) from error
        raise


def disk_full(where: Path) -> DiskFull:
    """Return the error for a device without space."""
    return DiskFull(
        f"no space left on the device that holds {where}",
        remedy="Free some space there or choose another place with --workspace, then run the same command again.",
    )
