"""What is read: a source and, record by record, what came out of it. Names become sources in find.py, records in readers.py."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from core.data.flaws import Flaw
from core.data.parsing import parse_record

Form = Literal["jsonl", "json", "csv", "parquet"]
Packing = Literal["gzip", "zstd"]


@dataclass(frozen=True)
class Source:
    """One thing to read: a file, or the bytes a builtin source made. `sha256` and `size_bytes` are of the bytes as they lie."""

    name: str
    sha256: str
    size_bytes: int
    path: Path | None = None
    data: bytes | None = None
    form: Form = "jsonl"
    packing: Packing | None = None

    def open(self) -> BinaryIO:
        """Open the source's bytes."""
        return io.BytesIO(self.data or b"") if self.path is None else self.path.open("rb")


@dataclass(frozen=True)
class Line:
    """One record as it was read; `end_byte` tells how far the source is.

    `read` may be the record's JSON text, which whoever asks for `record` parses: mostly another process, to which a text
    is handed over in a tenth of the time its objects take.
    `where` is source:number, the number being the physical line at which the record starts (JSONL, CSV, TSV), or the
    record's place counted from 1 (elements of a JSON document, rows of a Parquet file).
    """

    where: str
    read: dict[str, Any] | Flaw | str
    end_byte: int

    @property
    def record(self) -> dict[str, Any] | Flaw:
        """The parsed record, or what is wrong with it."""
        return parse_record(self.read) if isinstance(self.read, str) else self.read
