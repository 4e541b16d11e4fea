"""JSONL: one record on each line that is not blank."""

from __future__ import annotations

from collections.abc import Iterator

from core.data.flaws import Flaw
from core.data.formats.stream import Reading
from core.data.formats.text import decode_line, too_long
from core.data.source import Line, Source


def read(source: Source, reading: Reading, limit: int) -> Iterator[Line]:
    """Yield the record of every line."""
    end = 0
    for number, (raw, length) in enumerate(reading.lines(limit), start=1):
        start, end = end, end + length
        if not raw.isspace():
            where = f"{source.name}:{number}"
            long = length > limit and len(raw) > limit
            text = too_long(raw, limit) if long else decode_line(raw, start)
            yield Line(where, text if isinstance(text, Flaw) else text.strip(), reading.end_byte(end))
