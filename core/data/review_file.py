"""A review list as a file a person edits, CSV for a spreadsheet or JSONL, and the entries read back from it; their sense is in review.py."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.data.review import ReviewRow
from core.errors import BrokenRecord, NotUtf8, SourceMissing
from core.files import write_atomic

_COLUMNS = tuple(ReviewRow.model_fields)
_CELL_CHARS = 32_000  # Excel and LibreOffice cut cells at 32,767 characters without a word
_TOO_LONG = "(too long for a spreadsheet; write the list as .jsonl to edit it)"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_MOST_BYTES = 256 << 20


def write_list(path: Path, rows: Iterable[ReviewRow]) -> None:
    """Write a list; `.jsonl` is JSON lines, anything else CSV that no spreadsheet takes for formulas."""
    write_atomic(path, _json_lines(rows) if _is_json(path) else _csv(rows))


def read_list(path: Path) -> list[dict[str, str]]:
    """Return the entries of a list by column, as a person or a spreadsheet left them.

    SourceMissing, NotUtf8, or BrokenRecord that names the line.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)  # a device has no size that could be asked for
    except OSError as error:
        raise SourceMissing(f"{path} cannot be read: {error.strerror}", remedy="Name the list that was edited.") from error
    if len(data) > _MOST_BYTES:
        raise BrokenRecord(f"{path} has > {_MOST_BYTES} bytes", remedy="Take the list in parts.")
    text = _decoded(path, data)
    entries = list(_from_json_lines(path, text) if _is_json(path) else _from_csv(path, text))
    if entries and not {"decision", "row_id"} <= set(entries[0]):
        missing = ", ".join(sorted({"decision", "row_id"} - set(entries[0])))
        raise BrokenRecord(f"{path}: no column {missing}", remedy="Leave the columns decision and row_id in the list.")
    return entries


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in {".jsonl", ".ndjson"}


def _json_lines(rows: Iterable[ReviewRow]) -> bytes:
    return "".join(json.dumps(row.model_dump(mode="json"), ensure_ascii=False) + "\n" for row in rows).encode()


def _csv(rows: Iterable[ReviewRow]) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(value) for value in row.model_dump(mode="json").values()] for row in rows)
    return codecs.BOM_UTF8 + stream.getvalue().encode()  # without the mark Excel takes it for the machine's old code page


def _cell(value: object) -> str | float:
    if value is None:
        return ""
    if not isinstance(value, str):
        return float(str(value))
    if len(value) > _CELL_CHARS:
        return _TOO_LONG
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value


def _decoded(path: Path, data: bytes) -> str:
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotUtf8(f"{path} is not UTF-8 at byte {error.start}", remedy="Save it as `CSV UTF-8`.") from error


def _from_json_lines(path: Path, text: str) -> Iterator[dict[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BrokenRecord(f"{path}:{number} is no JSON", remedy="Mend the line.") from error
            if not isinstance(entry, dict):
                raise BrokenRecord(f"{path}:{number} is no JSON object", remedy="Mend the line.")
            yield {name: "" if value is None else str(value) for name, value in entry.items()}


def _from_csv(path: Path, text: str) -> Iterator[dict[str, str]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)  # where the comma is the decimal mark, spreadsheets part cells otherwise
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().casefold() for name in next(reader, [])]
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield {name: _unguarded(cell) for name, cell in zip(columns, cells, strict=False) if cell != _TOO_LONG}
    except csv.Error as error:
        raise BrokenRecord(f"{path}: near line {reader.line_num}: {error}", remedy="Save the list as CSV again.") from error


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA_STARTS) else cell
