"""Tables about datasets: what two versions differ in, and the rows to look at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from core.data.difference import Difference, RowDifference
from core.data.review import ReviewRow
from core.report.table import Cell, Column, Table

_EXCERPT_CHARS = 80


def difference_tables(found: Difference) -> tuple[Table, ...]:
    """Return the counts, the findings and settings that differ, and the rows listed; tables without rows are left out."""
    counts = (
        ("rows before", found.rows_before),
        ("rows after", found.rows_after),
        ("the same", found.same),
        ("added", found.added),
        ("gone", found.gone),
        ("changed", found.changed),
        ("moved to train", found.moved_to_train),
        ("moved to held out", found.moved_to_held_out),
    )
    findings = (
        (rule.severity.value, rule.code, rule.before, rule.after, rule.after - rule.before) for rule in found.findings
    )
    settings = ((key, *(json.dumps(value, ensure_ascii=False) for value in pair)) for key, pair in found.settings.items())
    tables = (
        _table(f"From {found.before} to {found.after}", ("what", "rows"), counts),
        _table("Findings that differ", ("severity", "rule", "before", "after", "change"), findings),
        _table("Settings that differ", ("setting", "before", "after"), settings),
        _rows("Rows added", found.rows_added, found.added),
        _rows("Rows gone", found.rows_gone, found.gone),
        _rows("Rows changed", found.rows_changed, found.changed),
        _rows("Rows on another side", found.rows_moved, found.moved_to_train + found.moved_to_held_out),
    )
    return tuple(table for table in tables if table.rows)


def _table(title: str, titles: Sequence[str], rows: Iterable[tuple[Cell, ...]], notes: tuple[str, ...] = ()) -> Table:
    cells = tuple(rows)
    numbers = [bool(cells) and all(isinstance(row[place], int) for row in cells) for place in range(len(titles))]
    columns = tuple(
        Column(key=head, title=head, align="right" if number else "left")
        for head, number in zip(titles, numbers, strict=True)
    )
    return Table(title=title, columns=columns, rows=cells, notes=notes)


def _rows(title: str, listed: tuple[RowDifference, ...], all_rows: int) -> Table:
    rows = ((row.row_id, row.what, row.question) for row in listed)
    more = (f"{all_rows - len(listed):,} more are not listed; list more with --rows.",) if all_rows > len(listed) else ()
    return _table(title, ("row", "what", "question"), rows, more)


def review_table(listed: Sequence[ReviewRow]) -> Table:
    """Return the rows to look at, each with its score, what was found, why, and how it begins."""
    rows = (
        (
            "" if row.score is None else f"{row.score:.2f}",
            row.state,
            row.findings,
            row.where,
            row.why or row.remedy,
            row.user[:_EXCERPT_CHARS],
        )
        for row in listed
    )
    told = (
        "Write them to a file to decide on them: edgekiln data review -o review.csv"
        if listed
        else "There is nothing to look at."
    )
    return _table("Rows to look at", ("score", "state", "findings", "where", "why", "question"), rows, (told,))
