"""The rows of a Dataset as a Parquet file: one canonical schema, whatever shape the sources had. What is read is in record.py.

Texts are columns of text. What has no fixed form (schemas, tools, turns, unknown fields) is JSON text, null where there is
none. The same rows give the same bytes, however they came in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FILE = "rows.parquet"

_JSON = ("tool_schema", "extra", "history", "steps", "tools", "answer_tool_calls")
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_GROUP_ROWS = 8192

UNSPLIT = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("system", pa.large_string()),
        pa.field("context", pa.large_string()),
        pa.field("user", pa.large_string(), nullable=False),
        pa.field("requires_json", pa.bool_(), nullable=False),
        pa.field("tool_name", pa.string()),
        pa.field("completion", pa.large_string()),
        *(pa.field(name, pa.large_string()) for name in _JSON),
    ]
)
SCHEMA = UNSPLIT.insert(1, pa.field("split", pa.string(), nullable=False))


def columns_of(rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return rows, by the fields of a PromptRow that are set, as columns without the split."""
    columns: list[Any] = []
    for field in UNSPLIT:
        values = [row.get(field.name) for row in rows]
        if field.name in _JSON:
            values = [_text(value) for value in values]
        elif field.name == "requires_json":
            values = [bool(value) for value in values]
        columns.append(pa.array(values, field.type))
    return pa.record_batch(columns, schema=UNSPLIT)


def _text(value: Any) -> str | None:
    return _ENCODER.encode(value) if value else None


class RowsWriter:
    """Writes rows into a Parquet file in groups of a fixed number, so that batches of any size give the same bytes."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._writer = pq.ParquetWriter(self._stream, SCHEMA, compression="zstd", store_schema=False)
        self._waiting: list[pa.RecordBatch] = []
        self._count = 0

    def __enter__(self) -> RowsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._write(self._count)
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def write(self, rows: pa.RecordBatch, splits: Sequence[str]) -> None:
        """Add rows without a split, and their splits."""
        with_split = [rows.column(0), pa.array(splits, pa.string()), *rows.columns[1:]]
        self._waiting.append(pa.record_batch(with_split, schema=SCHEMA))
        self._count += len(rows)
        while self._count >= _GROUP_ROWS:
            self._write(_GROUP_ROWS)

    def _write(self, rows: int) -> None:
        table = pa.Table.from_batches(self._waiting, SCHEMA)
        if rows:
            self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=_GROUP_ROWS)
        self._waiting = table.slice(rows).to_batches()
        self._count -= rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of rows given by all the fields of a PromptRow."""
    with RowsWriter(path) as writer:
        for row in rows:
            writer.write(columns_of([row]), [row["split"]])


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows by the fields that are set, in bounded memory."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
            yield from map(_row, batch.to_pylist())


def _row(row: dict[str, Any]) -> dict[str, Any]:
    read = {name: json.loads(value) if name in _JSON else value for name, value in row.items() if value is not None}
    return {"system": None, "context": None, **read}
