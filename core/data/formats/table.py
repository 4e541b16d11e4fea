"""CSV and TSV: a header, then one record a row; Python's csv reads it, strictly and within bounds.

All cells are texts. An empty cell is a field that is not there: a table cannot tell it from an empty text.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from core.data.flaws import REMEDIES, Flaw
from core.data.formats.cells import unfold
from core.data.formats.stream import BOM, Reading
from core.data.formats.text import decode
from core.data.source import Line, Source
from core.errors import DataError

_DELIMITERS = ",;\t|"  # by preference where the header, of one column, has none of them
_TAB_FIRST = "\t,;|"
_LONE_RETURN = "a carriage return stands alone outside of quotes"  # csv's own words speak to programmers
_HEADER_BYTES = 1 << 16


class _TooLong(ValueError):
    """One row has more bytes than a record may have."""


class _Rows:
    """The file's rows; `first` is the physical line the present one starts at, `end` the bytes used so far.

    A quote that is never closed would draw the rest of the file into one cell: the row is given up when it has more
    bytes than the limit, and the next physical line starts a new one. So each line is looked at once.
    """

    def __init__(self, source: Source, reading: Reading, limit: int) -> None:
        self._source = source
        self._lines = enumerate(reading.lines(limit), start=1)
        self._limit = limit
        self._number = 0
        self._row_bytes = 0
        self._head = ""
        self.first = 1
        self.end = 0

    def __iter__(self) -> Iterator[str]:
        """Yield physical lines to the csv reader."""
        for number, (raw, length) in self._lines:
            start, self._number = self.end, number
            self.end += length
            self._row_bytes += length
            if not self._head:
                self.first, self._head = number, raw[:800].decode(errors="replace")
            if self._row_bytes > self._limit:
                raise _TooLong
            yield decode(raw, f"{self._source.name}:{number}", start)

    def cells(self, dialect: _Dialect) -> Iterator[list[str] | Flaw]:
        """Yield the cells of each row that is not blank, or why they cannot be told apart."""
        reader = None
        while True:
            self._row_bytes, self._head = 0, ""
            reader = reader or csv.reader(
                iter(self), delimiter=dialect.delimiter, skipinitialspace=dialect.spaced, strict=True
            )
            try:
                found = next(reader, None)
            except (csv.Error, _TooLong) as error:
                reader = None
                yield self._flaw(error)
                continue
            if found is None:
                return
            if found:
                yield found

    def _flaw(self, error: Exception) -> Flaw:
        span = f"; lines {self.first} to {self._number} are set aside" if self._number > self.first else ""
        if isinstance(error, _TooLong):
            return Flaw("line-too-long", None, self._head, f"the row has > {self._limit} bytes{span}")
        why = _LONE_RETURN if "universal-newline" in str(error) else str(error)
        return Flaw("csv-broken", None, self._head, f"no CSV: {why}{span}")


def read(source: Source, reading: Reading, limit: int) -> Iterator[Line]:
    """Yield the record of every row below the header; DataError when there is no telling the header's names apart."""
    # the limit is the process's own, so it is only raised; what bounds a row is the count of its bytes in _Rows
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    rows = _Rows(source, reading, limit)
    header: list[str] | None = None
    dialect = _dialect(source.name, reading.head(_HEADER_BYTES))
    for cells in rows.cells(dialect):
        if header is None and dialect.named and rows.first == 1:
            continue
        if header is None:
            header = _names(cells, f"{source.name}:{rows.first}")
            continue
        record = cells if isinstance(cells, Flaw) else _record(header, cells)
        yield Line(f"{source.name}:{rows.first}", record, reading.end_byte(rows.end))


def _names(cells: list[str] | Flaw, where: str) -> list[str]:
    if isinstance(cells, Flaw):
        raise DataError(f"{where}: the table's header cannot be read: {cells.reason}", remedy=REMEDIES[cells.code])
    return [name.strip() for name in cells]


class _Dialect(NamedTuple):
    """What parts the cells, and whether a space stands behind each of them that is no part of the next cell.

    `named` says that the first line is no header but Excel's `sep=;`, which names what parts the cells.
    """

    delimiter: str
    spaced: bool
    named: bool


def _dialect(name: str, head: bytes) -> _Dialect:
    """Return how the header's names are parted: by comma, semicolon, tab or bar, with a space behind each or not."""
    first, _, _ = head.removeprefix(BOM).lstrip().decode(errors="replace").partition("\n")
    named = first.casefold().startswith("sep=") and len(first.rstrip("\r")) == len("sep=") + 1
    if named:
        return _Dialect(first[len("sep=")], spaced=False, named=True)
    delimiter = max(_TAB_FIRST if ".tsv" in name.lower() else _DELIMITERS, key=first.count)
    return _Dialect(delimiter, spaced=0 < first.count(delimiter) == first.count(f"{delimiter} "), named=False)


def _record(header: list[str], cells: list[str]) -> dict[str, Any] | Flaw:
    if len(set(header)) < len(header):
        twice = Counter(header).most_common(1)[0][0]
        return Flaw("header-duplicate", twice[:80], ", ".join(header), f"the header names {twice[:80]!r} twice")
    if len(cells) != len(header):
        return Flaw("row-ragged", None, ", ".join(cells), f"the row has {len(cells)} cells, the header {len(header)}")
    return unfold({name: cell or None for name, cell in zip(header, cells, strict=True)})
