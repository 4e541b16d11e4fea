"""The one renderer: a table as text, JSON, CSV, Markdown or an HTML fragment. Pages are in page.py."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from core.report.table import Cell, Column, Table
from core.report.templating import fill
from core.report.visible import visible

Format = Literal["text", "json", "csv", "markdown", "html"]

DEFAULT_WIDTH = 120
UNKNOWN = "unknown"
_UNBROKEN_CHARS = (24, 14, 12, 8)  # words up to so many are not broken over two lines: the first that fits the width
_ONE_LINE_CHARS = 24  # columns up to this width get it before longer text is widened: ids, names and times stay readable
_GAP_CHARS = 2
_LARGEST_WHOLE = 1e15  # above it a float no longer holds every integer
_LINKS = (("://", "&#58;//"), ("@", "&#64;"), ("www.", "www&#46;"))  # what readers make links of by themselves
_BLOCK_STARTS = ("#", "-", "+", "=")  # what begins a heading, a list or a rule where a line begins with it
_ORDERED = re.compile(r"^([0-9]{1,9})([.)])")
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""A spreadsheet takes text that begins so for a formula; the quote is guarded too, so that the guard can be undone."""


def render(table: Table, format: Format, *, width: int = DEFAULT_WIDTH) -> str:  # noqa: A002 - the word users type
    """Return a table in a format; `width` is in characters and counts for text only."""
    if format == "text":
        return _text(table, width)
    if format == "json":
        return json.dumps(as_document(table), ensure_ascii=False, indent=1)
    if format == "csv":
        return _csv(table)
    return _markdown(table) if format == "markdown" else _html(table)


def as_document(table: Table) -> dict[str, object]:
    """Return a table as one JSON document: None stays null and numbers keep all their digits."""
    keys = [column.key for column in table.columns]
    return {
        "title": table.title,
        "columns": [{"key": column.key, "title": column.title, "unit": column.unit} for column in table.columns],
        "rows": [dict(zip(keys, row, strict=True)) for row in table.rows],
        "notes": list(table.notes),
    }


def shown(cell: Cell, column: Column) -> str:
    """Return a cell as a person reads it."""
    if cell is None:
        return UNKNOWN
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int) and column.short:
        return _short(cell)
    if isinstance(cell, float):
        return _significant(cell) if column.digits is None else f"{cell:.{column.digits}f}"
    return visible(str(cell), keep="\n")


def _significant(number: float) -> str:
    """Return six significant digits; a count that was kept as a float is shown whole."""
    return f"{number:.0f}" if number.is_integer() and abs(number) < _LARGEST_WHOLE else f"{number:.6g}"


def _short(count: int) -> str:
    """Return a count with three significant digits and its unit: thousand, million, billion."""
    for power, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if (scaled := count / power) >= 0.9995:  # rounds to 1.00
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {unit}"
    return str(count)


def _text(table: Table, width: int) -> str:
    rows = [[shown(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False)
    with console.capture() as capture:
        if title := visible(table.title):  # as wide as the console; Rich's own would be broken at the table's edge
            console.print(Text(title, overflow="fold"))
        console.print(_grid(table, rows, width) or _records(table, rows))
        for note in table.notes:
            console.print(Text(f"  {visible(note)}"))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _grid(table: Table, rows: list[list[str]], width: int) -> RichTable | None:
    """Return the table with its columns side by side; None where not even parts of words fit."""
    kept, widths = _layout(table, rows, width)
    if not kept:
        return None
    drawn = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP_CHARS - 1, 0, 0),
    )
    for index, chars in zip(kept, widths, strict=True):
        column = table.columns[index]
        drawn.add_column(Text(column.head), justify=column.align, overflow="fold", width=chars)
    for row in rows:
        drawn.add_row(*(Text(row[index]) for index in kept))
    return drawn


def _records(table: Table, rows: list[list[str]]) -> RichTable:
    """Return the table with each row as lines of title and value."""
    drawn = RichTable.grid(padding=(0, _GAP_CHARS, 0, 0))
    drawn.add_column()
    drawn.add_column(overflow="fold")
    for row in rows:
        for column, text in zip(table.columns, row, strict=True):
            drawn.add_row(Text(column.head), Text(text))
        drawn.add_row()
    return drawn


def _layout(table: Table, rows: list[list[str]], width: int) -> tuple[list[int], list[int]]:
    """Return which columns are shown how wide: whole words first, then all columns; none where nothing fits."""
    choices = [list(range(len(table.columns)))]
    for index in reversed(choices[0]):
        if table.columns[index].optional:
            choices.append([other for other in choices[-1] if other != index])
    for unbroken in _UNBROKEN_CHARS:
        for kept in choices:
            least = [_least(table, rows, index, unbroken) for index in kept]
            if sum(least) + _GAP_CHARS * (len(kept) - 1) <= width:
                texts = [[table.columns[index].head, *(row[index] for row in rows)] for index in kept]
                return kept, _widened(least, texts, width)
    return [], []


def _least(table: Table, rows: list[list[str]], index: int, unbroken: int) -> int:
    """Return how narrow a column may be: numbers stay whole, and words up to so many characters."""
    words = [word for text in (table.columns[index].head, *(row[index] for row in rows)) for word in text.split()]
    numbers = [
        len(row[index]) for row, cells in zip(rows, table.rows, strict=True) if isinstance(cells[index], int | float)
    ]
    return max(1, *numbers, min(max(map(len, words), default=1), unbroken))


def _widened(least: list[int], texts: list[list[str]], width: int) -> list[int]:
    """Return the widths with the room that is left given to the columns whose text is longer."""
    given = list(least)
    spare = width - sum(given) - _GAP_CHARS * (len(given) - 1)
    wanted = [max(len(line) for text in column for line in text.split("\n")) for column in texts]
    cells = [max((len(line) for text in column[1:] for line in text.split("\n")), default=0) for column in texts]
    for index in sorted(range(len(given)), key=cells.__getitem__):
        more = cells[index] - given[index]
        if cells[index] <= _ONE_LINE_CHARS and 0 < more <= spare:
            given[index] += more
            spare -= more
    for aim in (cells, wanted):  # a title is broken over two lines before a cell is
        while spare > 0 and (missing := [want - have for want, have in zip(aim, given, strict=True)]) and max(missing) > 0:
            given[missing.index(max(missing))] += 1
            spare -= 1
    return given


def _csv(table: Table) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([_guarded(column.key) for column in table.columns])
    writer.writerows([[_csv_cell(cell) for cell in row] for row in table.rows])
    return stream.getvalue()


def _csv_cell(cell: Cell) -> str | int | float:
    if cell is None:
        return UNKNOWN
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return _guarded(cell) if isinstance(cell, str) else cell


def _guarded(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _markdown(table: Table) -> str:
    head = "| " + " | ".join(markdown_text(column.head) for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.align == "right" else "---" for column in table.columns) + "|"
    rows = [
        "| "
        + " | ".join(markdown_text(shown(cell, column)) for cell, column in zip(row, table.columns, strict=True))
        + " |"
        for row in table.rows
    ]
    notes = ["", *(f"- {markdown_text(note)}" for note in table.notes)] if table.notes else []
    return "\n".join([f"### {markdown_text(table.title)}", "", head, rule, *rows, *notes]) + "\n"


def markdown_text(text: str) -> str:
    """Return text as it reads within a line of Markdown: no markup, no HTML, no link, no formula comes of it."""
    escaped = html.escape(visible(text, keep="\n").replace("\\", "\\\\"), quote=False)
    for mark in "|`*_~$[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    for start, entity in _LINKS:
        escaped = escaped.replace(start, entity)
    return " ".join(escaped.split())


def markdown_line(text: str) -> str:
    """Return text as a paragraph of Markdown of its own: no heading, list or rule comes of it either."""
    line = markdown_text(text)
    return f"\\{line}" if line.startswith(_BLOCK_STARTS) else _ORDERED.sub(r"\1\\\2", line)


def _html(table: Table) -> str:
    rows = [[shown(cell, column) for cell, column in zip(row, table.columns, strict=True)] for row in table.rows]
    return str(fill("table.html", table=table, rows=rows, unknown=UNKNOWN))
