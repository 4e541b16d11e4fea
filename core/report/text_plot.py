"""A curve drawn with characters, for a terminal: braille dots where they can be shown, else ASCII. No colour is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

_BLANK = 0x2800
_DOTS = (
    (0x01, 0x08),
    (0x02, 0x10),
    (0x04, 0x20),
    (0x40, 0x80),
)  # Unicode, Braille Patterns: rows of a cell, left and right
_LABEL = 9  # characters of a label of the axis, so that plots stand below each other


class Mark(NamedTuple):
    """What is drawn at an x: everything from `low` to `high`."""

    x: float
    low: float
    high: float


def plot(
    marks: Sequence[Mark], *, width: int, height: int, logarithmic: bool = False, ascii_only: bool = False
) -> list[str]:
    """Return lines of at most `width` characters: the axis of y with its bounds, the curve, the bounds of x.

    Neighbours are joined, so that a single spike is seen. A logarithmic axis leaves out what is not above zero. No mark gives
    no line.
    """
    kept = [mark for mark in marks if not logarithmic or mark.low > 0]
    columns = width - _LABEL - 2
    if not kept or columns < 4 or height < 2:
        return []
    low, high = min(mark.low for mark in kept), max(mark.high for mark in kept)
    across, down = (1, 1) if ascii_only else (2, 4)
    grid = _grid(kept, (columns * across, height * down), (low, high), logarithmic=logarithmic)
    cells = _ascii(grid) if ascii_only else _braille(grid)
    labels = [_number(high), *[""] * (height - 2), _number(low)]
    axis = "|" if ascii_only else "\u2502"
    lines = [f"{label:>{_LABEL}} {axis}{row}".rstrip() for label, row in zip(labels, cells, strict=True)]
    return [*lines, _x_bounds(kept, columns)]


def _x_bounds(marks: Sequence[Mark], columns: int) -> str:
    first, last = _number(marks[0].x), _number(marks[-1].x)
    if len(marks) == 1 or len(first) + len(last) + 1 > columns:
        return " " * (_LABEL + 2) + last[:columns]
    return " " * (_LABEL + 2) + first + last.rjust(columns - len(first))


def _grid(
    marks: Sequence[Mark], size: tuple[int, int], bounds: tuple[float, float], *, logarithmic: bool
) -> list[list[bool]]:
    """Return rows of dots, the topmost first."""
    columns, rows = size
    grid = [[False] * columns for _ in range(rows)]
    first, span = marks[0].x, (marks[-1].x - marks[0].x) or 1.0
    before: tuple[int, int, int] | None = None
    for mark in marks:
        column = round((mark.x - first) / span * (columns - 1))
        highest, lowest = (_row(value, bounds, rows, logarithmic=logarithmic) for value in (mark.high, mark.low))
        top, bottom = highest, lowest
        if before is not None and column - before[0] <= 1:  # joined to its neighbour, whatever lies between them
            top, bottom = min(top, before[2]), max(bottom, before[1])
        for row in range(top, bottom + 1):
            grid[row][column] = True
        before = (column, highest, lowest)
    return grid


def _row(value: float, bounds: tuple[float, float], rows: int, *, logarithmic: bool) -> int:
    low, high, at = (math.log(each) for each in (*bounds, value)) if logarithmic else (*bounds, value)
    share = 0.5 if high == low else (high - at) / (high - low)
    return round(share * (rows - 1))


def _braille(grid: Sequence[Sequence[bool]]) -> list[str]:
    return [
        "".join(
            chr(
                _BLANK
                + sum(
                    dot
                    for down, pair in enumerate(_DOTS)
                    for across, dot in enumerate(pair)
                    if grid[top + down][left + across]
                )
            )
            for left in range(0, len(grid[0]), 2)
        ).rstrip(chr(_BLANK))
        for top in range(0, len(grid), 4)
    ]


def _ascii(grid: Sequence[Sequence[bool]]) -> list[str]:
    return ["".join("*" if dot else " " for dot in row).rstrip() for row in grid]


def _number(value: float) -> str:
    """Return a number in at most nine characters."""
    texts = (f"{value:.{digits}g}" for digits in (4, 3, 2, 1))
    return next((text for text in texts if len(text) <= _LABEL), f"{value:.0e}"[:_LABEL])
