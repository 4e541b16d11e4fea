"""Parquet: its rows as records, read in batches of about 8 MiB. What JSON has no type for is written out, or is a flaw.

Parquet cannot tell a field that is null from one that is not there, so within objects null fields are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from core.data.flaws import Flaw
from core.data.formats.cells import unfold
from core.data.formats.stream import Torn
from core.data.parsing import MAX_DEPTH
from core.data.source import Line, Source

_BATCH_BYTES = 8 << 20
_MOST_BATCH_BYTES = 64 << 20
_MOST_ROWS = 256
_BUFFER_BYTES = 1 << 20


class _Unfit(ValueError):
    """Carries a flaw's code out of a cell."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def read(source: Source, path: Path, limit: int) -> Iterator[Line]:
    """Yield the record of every row; Torn when the file is damaged."""
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            metadata, schema = file.metadata, file.schema_arrow
            texts = [column.path for column in _columns(file.schema) if column.physical_type == "BYTE_ARRAY"]
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=_batch_rows(metadata)):
                for row in _rows(batch, schema, limit):
                    number += 1
                    end = source.size_bytes * number // max(1, metadata.num_rows)
                    yield Line(f"{source.name}:{number}", _record(row, twice, limit), end)
    except (pyarrow.ArrowException, OSError) as error:
        raise Torn(str(error)) from error


def _columns(schema: Any) -> list[Any]:
    return [schema.column(index) for index in range(len(schema))]


def _batch_rows(metadata: Any) -> int:
    """Return how many rows make about 8 MiB, by the row group with the largest rows."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(_MOST_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _rows(batch: Any, schema: Any, limit: int) -> Iterator[dict[str, Any] | Flaw]:
    """Yield a batch's rows as Python values.

    A file of 600 bytes can name one text of 10 MB in a thousand rows. So texts are read as references to a dictionary,
    and written out only where that stays small: the whole batch, else row by row.
    """
    if _written_bytes(batch.columns) <= _MOST_BATCH_BYTES:
        yield from _values(batch.cast(schema))
        return
    for index in range(batch.num_rows):
        one = batch.slice(index, 1)
        if (size := _written_bytes(one.columns)) > limit:
            yield Flaw("line-too-long", None, f"{size} bytes", f"the row has > {limit} bytes")
        else:
            yield from _values(one.cast(schema))


def _written_bytes(columns: Iterable[Any]) -> int:
    """Return the bytes of columns when every reference to a dictionary is written out."""
    import pyarrow
    from pyarrow import compute

    size = 0
    for column in columns:
        if pyarrow.types.is_dictionary(column.type):
            lengths = compute.binary_length(column.dictionary)
            size += compute.sum(compute.take(lengths, column.indices)).as_py() or 0
        elif pyarrow.types.is_struct(column.type):
            size += _written_bytes(column.flatten())
        elif pyarrow.types.is_map(column.type):  # its keys and items are those of the whole batch
            first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
            size += _written_bytes([column.keys.slice(first, last - first), column.items.slice(first, last - first)])
        elif pyarrow.types.is_nested(column.type):
            size += _written_bytes([column.flatten()])
        else:
            size += column.nbytes
    return size


def _values(batch: Any) -> list[dict[str, Any] | Flaw]:
    """Return a batch's rows as Python values; where one of them has none, the rows are taken one by one."""
    try:
        rows: list[dict[str, Any] | Flaw] = batch.to_pylist(maps_as_pydicts="strict")
    except (ValueError, KeyError, OverflowError):
        return [_one(batch.slice(index, 1)) for index in range(batch.num_rows)]
    return rows


def _one(batch: Any) -> dict[str, Any] | Flaw:
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (row[name],) = column.to_pylist(maps_as_pydicts="strict")
        except UnicodeDecodeError as error:
            return Flaw("field-not-utf8", name, repr(error.object[:200]), f"{name} is not UTF-8 at byte {error.start + 1}")
        except (ValueError, KeyError, OverflowError) as error:
            return Flaw("field-wrong-type", name, str(column.type), f"{name} holds no JSON value: {error}"[:200])
    return row


def _record(row: dict[str, Any] | Flaw, twice: str | None, limit: int) -> dict[str, Any] | Flaw:
    if isinstance(row, Flaw):
        return row
    if twice is not None:
        return Flaw("header-duplicate", twice, twice, f"two columns are named {twice!r}")
    size, record = 0, dict[str, Any]()
    for name, value in row.items():
        try:
            record[name] = _json_value(value, 1)
        except _Unfit as error:
            return Flaw(error.code, name, value, f"{name} {error}")
        size += _size(value)
    if size > limit:
        excerpt = next((value for value in row.values() if isinstance(value, str)), "")
        return Flaw("line-too-long", None, excerpt, f"the row has > {limit} bytes")
    return unfold(record)


def _json_value(value: Any, depth: int) -> Any:
    """Return a cell as JSON has it, objects without their null fields; or raise _Unfit."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if depth > MAX_DEPTH:
        raise _Unfit("json-too-deep", f"is nested deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        return [_json_value(each, depth + 1) for each in value]
    if isinstance(value, dict):
        return {str(name): _json_value(each, depth + 1) for name, each in value.items() if each is not None}
    return _scalar(value)


def _scalar(value: object) -> object:
    """Return a number, or what JSON has no type for as a text: times and decimals."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _Unfit("json-not-finite", f"holds {value}, no JSON value")
        return value
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta | Decimal):
        return str(value)
    raise _Unfit("field-wrong-type", f"holds {type(value).__name__}, no JSON value")


def _size(value: Any) -> int:
    """Return the bytes of a cell's texts, at most four for a character."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_size(name) + _size(each) for name, each in value.items())
    return sum(_size(each) for each in value) if isinstance(value, list) else 8
