"""Sources to records: finding JSONL files, hashing them, reading them line by line in bounded memory.

A record is one line that is not blank. Every record comes out once, as a parsed object or as a flaw.
"""

from __future__ import annotations

import hashlib
import io
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.data import docs
from core.data.flaws import EXCERPT_CHARS, Flaw
from core.data.parsing import parse_record
from core.errors import BadConfig, DataError, NotUtf8, SourceEmpty, SourceMissing

_CHUNK_BYTES = 1 << 20
_MIN_LINE_BYTES = 1 << 20
_BYTES_PER_CHAR = 12  # an escaped surrogate pair, the longest way to write one character
_BOM = b"\xef\xbb\xbf"
BUILTIN = "builtin:"


@dataclass(frozen=True)
class Source:
    """One thing to read: a file, or the bytes a builtin source made."""

    name: str
    sha256: str
    size_bytes: int
    path: Path | None = None
    data: bytes | None = None

    def open(self) -> BinaryIO:
        """Open the source's bytes."""
        return io.BytesIO(self.data or b"") if self.path is None else self.path.open("rb")


@dataclass(frozen=True)
class Line:
    """One record as it was read; `end_byte` tells how far the source is."""

    where: str
    record: dict[str, Any] | Flaw
    end_byte: int


def open_sources(names: Sequence[str], builtin_rows: int) -> list[Source]:
    """Find and hash what the names stand for: JSONL files, folders, globs, `builtin:python-docs`.

    Ordered by content, so that the order in which the names are given changes nothing. SourceMissing, SourceEmpty, or
    BadConfig for an unknown builtin.
    """
    found: dict[Path | str, Source] = {}
    for name in names:
        if name.startswith(BUILTIN):
            found[name] = _builtin(name, builtin_rows)
            continue
        files = {path.resolve(): _hash_file(path) for path in _find_files(name)}
        if not any(source for source in files.values()):
            raise SourceEmpty(f"source {name} holds 0 records", remedy="Put one JSON object on each line, or name another.")
        found.update({path: source for path, source in files.items() if source})
    return sorted(found.values(), key=lambda source: (source.sha256, source.name))


def _builtin(name: str, rows: int) -> Source:
    if name != docs.NAME:
        raise BadConfig(f"data.sources: no builtin source {name!r}", remedy=f"The builtin source is {docs.NAME}.")
    data = docs.generate(rows)
    label = f"{name} of Python {platform.python_version()}"
    return Source(name=label, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def _find_files(name: str) -> list[Path]:
    if not name.strip():
        raise _missing(repr(name), "names nothing", Path())
    try:
        return _files_of(name)
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise _missing(name, f"cannot be looked at: {error.strerror}", Path(name)) from error


def _files_of(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _some(name, path, sorted(path.rglob("*.jsonl")))
    if path.is_file():
        return [path]
    if any(mark in name for mark in "*?[") and not path.exists():
        base = Path(path.anchor)
        return _some(name, path, sorted(base.glob(str(path.relative_to(path.anchor)))))
    kind = "is not a regular file" if path.exists() else "does not exist"
    raise _missing(name, kind, path)


def _some(name: str, path: Path, candidates: list[Path]) -> list[Path]:
    files = [candidate for candidate in candidates if candidate.is_file()]
    if not files:
        raise _missing(name, "holds no *.jsonl file" if path.is_dir() else "matches no file", path)
    return files


def _missing(name: str, why: str, path: Path) -> SourceMissing:
    return SourceMissing(
        f"source {name} {why} (looked at {path.absolute()})",
        remedy="Name a JSONL file, a folder or a glob; a relative path starts at the current folder.",
    )


def _hash_file(path: Path) -> Source | None:
    """Hash a file; None when it holds nothing but blanks."""
    digest, size, blank = hashlib.sha256(), 0, True
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                blank = blank and not chunk.removeprefix(_BOM).strip()
    except OSError as error:
        raise _missing(str(path), f"cannot be read: {error.strerror}", path) from error
    return None if blank else Source(name=str(path), sha256=digest.hexdigest(), size_bytes=size, path=path)


def read_lines(source: Source, max_chars: int) -> Iterator[Line]:
    """Yield every record of a source; memory is bounded by the longest line `max_chars` allows.

    NotUtf8 names line and byte. DataError when the bytes are no longer those that were hashed.
    """
    limit = max(_MIN_LINE_BYTES, _BYTES_PER_CHAR * max_chars)
    digest, end = hashlib.sha256(), 0
    with source.open() as stream:
        for number, (line, length) in enumerate(_bounded_lines(stream, limit, digest), start=1):
            start, end = end, end + length
            text = line.removeprefix(_BOM) if number == 1 else line
            if text.strip():
                where = f"{source.name}:{number}"
                yield Line(where, _too_long(text, limit) if length > limit else _parse(text, where, start), end)
    if digest.hexdigest() != source.sha256:
        raise DataError(
            f"source {source.name} changed while it was read",
            remedy="Let its writer finish, then run the same command again.",
        )


def _bounded_lines(stream: BinaryIO, limit: int, digest: hashlib._Hash) -> Iterator[tuple[bytes, int]]:
    """Yield each line's first bytes, up to the limit, with its whole length."""
    while head := stream.readline(limit + 1):
        digest.update(head)
        length, piece = len(head), head
        while len(piece) and not piece.endswith(b"\n"):
            piece = stream.readline(_CHUNK_BYTES)
            digest.update(piece)
            length += len(piece)
        yield head, length


def _too_long(line: bytes, limit: int) -> Flaw:
    excerpt = line[: 4 * EXCERPT_CHARS].decode(errors="replace")
    return Flaw("line-too-long", None, excerpt, f"the line has > {limit} bytes")


def _parse(line: bytes, where: str, start: int) -> dict[str, Any] | Flaw:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(
            f"{where} is not UTF-8 at byte {error.start + 1} of the line, byte {start + error.start + 1} of the file "
            f"(0x{line[error.start]:02x})",
            remedy="Save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8 OLD > NEW`.",
        ) from error
    return parse_record(text.strip())
