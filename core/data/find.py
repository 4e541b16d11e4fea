"""What a name stands for: files, folders, globs, the builtin source, datasets of the Hugging Face hub; each found and hashed.

In folders and globs hidden files are left out, and what edgekiln itself wrote in a workspace among them, unless it is named.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from core.data import docs, hub
from core.data.formats.recognise import KNOWN, is_known, recognise
from core.data.formats.stream import BOM
from core.data.source import Source
from core.errors import BadConfig, SourceMissing
from core.report.visible import visible

_CHUNK_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
_WILD = "*?["
BUILTIN = "builtin:"
_MADE_FIRST = frozenset({"artifacts", "staging", "quarantine"})  # a folder with these three is a workspace
_MADE = _MADE_FIRST | {"audit", "current", "decisions", "ledger", "runs"}


def find_sources(name: str, builtin_rows: int) -> dict[Path | str, Source]:
    """Find and hash the files a name stands for, by their real paths; files of nothing but blanks are left out.

    SourceMissing, BadConfig for an unknown builtin, DataError for a file that no reader can read.
    """
    if name.startswith(BUILTIN):
        return {name: _builtin(name, builtin_rows)}
    files = {path.resolve(): _hash_file(path, told) for path, told in _find(name)}
    return {path: source for path, source in files.items() if source}


def _builtin(name: str, rows: int) -> Source:
    if name != docs.NAME:
        raise BadConfig(f"data.sources: no builtin source {name!r}", remedy=f"The builtin source is {docs.NAME}.")
    data = docs.generate(rows)
    label = f"{name} of Python {platform.python_version()}"
    return Source(name=label, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def _find(name: str) -> list[tuple[Path, str]]:
    """Return the files a name stands for, each with the name it is told by."""
    if not name.strip():
        raise _missing(repr(name), "names nothing", Path())
    if (told := _tellable(Path(name))) != str(Path(name)):
        raise BadConfig(
            f"data.sources: {told} is not UTF-8, so it cannot be recorded", remedy="Rename the file, or name its folder."
        )
    if name.startswith(hub.PREFIX):
        return hub.fetch(name)
    try:
        return [(path, _tellable(path)) for path in _files_of(name)]
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise _missing(name, f"cannot be looked at: {error.strerror}", Path(name)) from error


def _tellable(path: Path) -> str:
    """Return a path as text that can be written down; bytes that are no UTF-8 are shown as lost."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")


def _files_of(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        return _some(name, path, [file for file in _walk(path) if is_known(file)])
    if path.is_file():
        return [path]
    if any(mark in name for mark in _WILD) and not path.exists():
        matches = _matching(path)
        return _some(name, path, [match for match in matches if is_known(match)] or matches)
    kind = "is not a regular file" if path.exists() else "does not exist"
    raise _missing(name, kind, path)


def _walk(folder: Path) -> list[Path]:
    """Return the files below a folder, through links too; each folder is entered once, so that loops end."""
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        made = _MADE if _MADE_FIRST.issubset(folders) else frozenset[str]()
        folders[:] = sorted(name for name in folders if name not in made and not name.startswith("."))
        found += [Path(place) / file for file in files if not file.startswith(".")]
    return sorted(found)


def _matching(pattern: Path) -> list[Path]:
    """Return what matches a glob, by the rules of `_walk` below the part of it that has no wildcard."""
    plain = list(takewhile(lambda part: not any(mark in part for mark in _WILD), pattern.parts))
    base, rest = Path(*plain), pattern.parts[len(plain) :]
    hidden = any(part.startswith(".") for part in rest)
    found = (match for match in base.glob("/".join(rest)))
    return sorted(match for match in found if not _left_out(base, match.relative_to(base).parts, hidden))


def _left_out(base: Path, parts: Sequence[str], hidden: bool) -> bool:
    if not hidden and any(part.startswith(".") for part in parts):
        return True
    above = (base.joinpath(*parts[:level]) for level, part in enumerate(parts) if part in _MADE)
    return any(all((folder / name).is_dir() for name in _MADE_FIRST) for folder in above)


def _refuse(error: OSError) -> None:
    raise error


def _some(name: str, path: Path, candidates: list[Path]) -> list[Path]:
    files = [candidate for candidate in candidates if candidate.is_file()]
    if not files:
        raise _missing(name, f"holds no file of records ({KNOWN})" if path.is_dir() else "matches no file", path)
    return files


def _missing(name: str, why: str, path: Path) -> SourceMissing:
    return SourceMissing(
        visible(f"source {name} {why} (looked at {path.absolute()})"),
        remedy=f"Name a file of records ({KNOWN}), a folder, a glob, or hf:owner/dataset; a relative path starts at the "
        "current folder.",
    )


def _hash_file(path: Path, name: str) -> Source | None:
    """Hash a file and see what it is; None when it holds nothing but blanks."""
    digest, size, blank, head = hashlib.sha256(), 0, True, b""
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                head = head or chunk[:_HEAD_BYTES]
                digest.update(chunk)
                size += len(chunk)
                blank = blank and not chunk.removeprefix(BOM).strip()
        if blank:
            return None
        form, packing = recognise(path, head)
    except OSError as error:
        raise _missing(name, f"cannot be read: {error.strerror}", path) from error
    return Source(name=name, sha256=digest.hexdigest(), size_bytes=size, path=path, form=form, packing=packing)
