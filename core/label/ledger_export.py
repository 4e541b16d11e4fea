"""The ledger as a file for other programs: JSON lines, or Parquet with the request and the reply as JSON texts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.files import disk_full_is_an_error, named, write_json_lines
from core.label.ledger import Ledger
from core.label.ledger_errors import row_errors

ENDINGS = (".jsonl", ".parquet")

_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("key", "state", "teacher", "request", "code", "error")),
        pa.field("sent", pa.int64()),
        *(pa.field(name, pa.string()) for name in ("first_sent_at", "finished_at")),
        pa.field("cost", pa.float64()),
        pa.field("reply", pa.string()),
    ]
)
_GROUP_ROWS = 1000


def export_ledger(ledger: Ledger, output: Path) -> int:
    """Write every request in the order of the keys and return how many; the file appears whole or not at all."""
    scratch = output.with_name(f".{output.name}.part")
    try:
        with disk_full_is_an_error(output.parent), named(output):
            count = _write_parquet(ledger, scratch) if output.suffix == ".parquet" else _write_lines(ledger, scratch)
            scratch.replace(output)
    finally:
        scratch.unlink(missing_ok=True)
    return count


def _write_lines(ledger: Ledger, path: Path) -> int:
    return write_json_lines(path, (_parsed(record, ledger.path) for record in ledger.records()))


def _parsed(record: dict[str, Any], path: Path) -> dict[str, Any]:
    with row_errors(path, "requests", "key", record["key"]):
        return {**record, "request": json.loads(record["request"])}


def _write_parquet(ledger: Ledger, path: Path) -> int:
    count = 0
    with path.open("wb") as stream:
        with pq.ParquetWriter(stream, _SCHEMA, compression="zstd") as writer:
            for group in _groups(ledger.records()):
                writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
                count += len(group)
        stream.flush()
        os.fsync(stream.fileno())
    return count


def _groups(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(records, _GROUP_ROWS)):
        yield [{**record, "reply": json.dumps(record["reply"]) if record["reply"] else None} for record in group]
