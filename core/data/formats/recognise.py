"""What form a file has and how it is packed: by its first bytes where they tell, else by its name."""

from __future__ import annotations

import json
from pathlib import Path

from core.data.formats.stream import BOM, Reading, Torn
from core.data.source import Form, Packing, Source
from core.errors import DataError

_FORMS: dict[str, Form] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_PACKINGS: dict[str, Packing] = {".gz": "gzip", ".zst": "zstd"}
_PACKED: tuple[tuple[bytes, Packing], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *(
        (bytes([kind]) + b"\x2a\x4d\x18", "zstd") for kind in range(0x50, 0x60)
    ),  # a skippable frame first, as pzstd writes it
)
_FOREIGN = (
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "zip (as .xlsx is)"),
    (b"SQLite format 3", "SQLite"),
    (b"%PDF-", "PDF"),
    (b"ARROW1", "Arrow (as .arrow and .feather are)"),
    (b"\xff\xff\xff\xff", "an Arrow stream (as Hugging Face's datasets keep on disk)"),
)
_TAR_PLACE, _TAR = 257, b"ustar"
_PARQUET = b"PAR1"
_HEAD_BYTES = 1 << 16
KNOWN = ", ".join(_FORMS)


def is_known(path: Path) -> bool:
    """Return whether a file's name says that it holds records."""
    return _form_by_name(path) is not None


def _form_by_name(path: Path) -> Form | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKINGS:
        suffixes.pop()
    return _FORMS.get(suffixes[-1]) if suffixes else None


def recognise(path: Path, head: bytes) -> tuple[Form, Packing | None]:
    """Return form and packing of a file by its first bytes and its name; DataError for what no reader can read."""
    _refuse_foreign(path, head)
    packing = next((packing for mark, packing in _PACKED if head.startswith(mark)), None)
    if packing:
        head = _unpacked_head(path, packing)
        _refuse_foreign(path, head)
    if not head.startswith(_PARQUET):
        return _text_form(path, head), packing
    if packing:
        raise DataError(
            f"source {path} is a Parquet file inside {packing}, which cannot be read in pieces",
            remedy="Unpack it; Parquet is compressed inside.",
        )
    return "parquet", None


def _refuse_foreign(path: Path, head: bytes) -> None:
    foreign = next((kind for mark, kind in _FOREIGN if head.startswith(mark)), None)
    if foreign is None and head[_TAR_PLACE:].startswith(_TAR):
        foreign = "a tar archive"
    if foreign:
        raise DataError(
            f"source {path} is {foreign}, which edgekiln does not read",
            remedy=f"Unpack or export it: {KNOWN} are read, each also packed with gzip or zstd.",
        )


def _unpacked_head(path: Path, packing: Packing) -> bytes:
    """Return the first unpacked bytes; damage at the very start is told when the file is read."""
    reading = Reading(Source(name=str(path), sha256="", size_bytes=0, path=path, packing=packing))
    try:
        return reading.head(_HEAD_BYTES)
    except Torn:
        return b""
    finally:
        reading.close()


def _text_form(path: Path, head: bytes) -> Form:
    named, text = _form_by_name(path), head.removeprefix(BOM).lstrip()
    if named == "parquet":
        raise DataError(
            f"source {path} is no Parquet file: it does not start with PAR1",
            remedy="Write it again, or give it the name of what it is.",
        )
    if named == "json" and text.startswith(b"{") and _is_object(text):
        return "jsonl"
    return named or ("json" if text.startswith(b"[") else "jsonl")


def _is_object(text: bytes) -> bool:
    """Return whether the first line is a whole JSON object: such a file is JSONL, whatever its name."""
    first, line_end, _ = text.partition(b"\n")
    try:
        return bool(line_end) and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False
