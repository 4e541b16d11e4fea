"""The door to the sources: from names to sources, and from a source to its records in bounded memory.

Every record comes out once, as a parsed object or as a flaw. Names are looked up in find.py, each format has its module
in formats/.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from core.data.find import find_sources
from core.data.formats import json_document, json_lines, parquet, table
from core.data.formats.stream import Reading, Torn
from core.data.formats.text import refuse_wide
from core.data.source import Line, Source
from core.errors import DataError, SourceEmpty

__all__ = ["Line", "Source", "open_sources", "read_lines"]

_MIN_LINE_BYTES = 1 << 20
_HEAD_BYTES = 4
_BYTES_PER_CHAR = 12  # an escaped surrogate pair, the longest way to write one character
_TEXT_FORMS = {"jsonl": json_lines.read, "json": json_document.read, "csv": table.read}


def open_sources(names: Sequence[str], builtin_rows: int) -> list[Source]:
    """Find and hash what the names stand for: files, folders, globs, `hf:owner/name`, `builtin:python-docs`.

    Ordered by content, so that the order in which the names are given changes nothing. SourceMissing, SourceEmpty,
    NotUtf8, DataError for a file that cannot be read at its start, or BadConfig for an unknown builtin.
    """
    found: dict[Path | str, Source] = {}
    for name in names:
        kept = {
            place: source
            for place, source in find_sources(name, builtin_rows).items()
            if place in found or not _needs_look(source) or _holds_record(source)
        }
        if not kept:
            raise SourceEmpty(
                f"source {name} holds 0 records",
                remedy="Write records into it, such as one JSON object on each line, or name another.",
            )
        found.update(kept)
    return sorted(found.values(), key=lambda source: (source.sha256, source.name))


def _needs_look(source: Source) -> bool:
    """Return whether a file that is not blank may still hold no record: a header alone, an empty array or archive."""
    return source.form != "jsonl" or source.packing is not None


def _holds_record(source: Source) -> bool:
    with closing(read_lines(source, 1)) as lines:
        return next(lines, None) is not None


def read_lines(source: Source, max_chars: int) -> Generator[Line, None, None]:
    """Yield every record of a source; memory is bounded by the longest record `max_chars` allows.

    NotUtf8 names line and byte. DataError when the bytes are no longer those that were hashed, or when a packed file or
    a Parquet file ends too early or is damaged: it names the byte and how many records were read before it.
    """
    with closing(Reading(source)) as reading:
        count = 0
        try:
            for line in _lines(source, reading, max(_MIN_LINE_BYTES, _BYTES_PER_CHAR * max_chars)):
                count += 1
                yield line
        except Torn as error:
            position = reading.position
            _refuse_changed(source, reading)
            raise _torn(source, position, count, error) from error
        _refuse_changed(source, reading)


def _lines(source: Source, reading: Reading, limit: int) -> Iterator[Line]:
    if source.form == "parquet" and source.path is not None:
        return parquet.read(source, source.path, limit)
    refuse_wide(source.name, reading.head(_HEAD_BYTES))
    return _TEXT_FORMS[source.form](source, reading, limit)


def _refuse_changed(source: Source, reading: Reading) -> None:
    if source.form == "parquet":  # read by seeking, so its bytes are hashed once more
        with closing(Reading(source)) as again:
            found = again.finish()
    else:
        found = reading.finish()
    if found != source.sha256:
        raise DataError(
            f"source {source.name} changed while it was read",
            remedy="Let its writer finish, then run the same command again.",
        )


def _torn(source: Source, position: int, count: int, error: Torn) -> DataError:
    place = "" if source.form == "parquet" else f" at byte {position} of {source.size_bytes}"
    kind = source.packing or ("Parquet" if source.form == "parquet" else "text")
    return DataError(
        f"source {source.name} breaks off as {kind}{place}, after {count} records: {' '.join(str(error).split())[:200]}",
        remedy="Fetch or write the file again; none of its records is used.",
    )
