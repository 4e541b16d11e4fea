"""The log-probabilities of chosen answers as a Parquet file: one row an answer, natural logarithms, ids of the teacher's tokens."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from core.label.request import TokenLogprob

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("token", pa.list_(pa.int32())),
        pa.field("text", pa.list_(pa.string())),
        pa.field("logprob", pa.list_(pa.float32())),
        pa.field("top_token", pa.list_(pa.list_(pa.int32()))),
        pa.field("top_text", pa.list_(pa.list_(pa.string()))),
        pa.field("top_logprob", pa.list_(pa.list_(pa.float32()))),
    ]
)
_GROUP_ROWS = 1024


class LogprobsWriter:
    """Writes answers in groups of a fixed number."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("wb")
        self._writer = pq.ParquetWriter(self._stream, SCHEMA, compression="zstd", store_schema=False)
        self._waiting: list[dict[str, object]] = []

    def __enter__(self) -> LogprobsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._flush()
        self._writer.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def add(self, row_id: str, tokens: Sequence[TokenLogprob]) -> None:
        """Add the tokens of a row's answer."""
        self._waiting.append(
            {
                "row_id": row_id,
                "token": [token.token for token in tokens],
                "text": [token.text for token in tokens],
                "logprob": [token.logprob for token in tokens],
                "top_token": [[number for number, _, _ in token.top] for token in tokens],
                "top_text": [[text for _, text, _ in token.top] for token in tokens],
                "top_logprob": [[logprob for _, _, logprob in token.top] for token in tokens],
            }
        )
        if len(self._waiting) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._waiting, SCHEMA))
        self._waiting = []
