"""Which rows are held out from training, decided by their content alone.

A row is held out when the hash of its question and context, read as a number in [0, 1), lies below the share. So the
decision never depends on other rows: it stays when the file grows, shrinks or is reordered, and the same question with
another hint falls on the same side. The share is met on average (96 rows at 0.25 give about 24, four more or less).
Only when a small set would leave one side empty, the row nearest to the border changes sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from core.data.record import PromptRow, Split

_SCALE = float(1 << 64)


def score(user: str, context: str | None) -> float:
    """Return a row's place in [0, 1); case and white space do not count."""
    text = "\x00".join(" ".join(part.casefold().split()) for part in (user, context or ""))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / _SCALE


def side(place: float, held_out_share: float) -> Split:
    """Return the split of a row by its score."""
    return "held_out" if place < held_out_share else "train"


def border_row(rows: Iterable[PromptRow], empty: Split) -> str:
    """Return the id of the row that goes to the empty side: the lowest score for held_out, the highest for train."""
    places = ((score(row.user, row.context), row.row_id) for row in rows)
    return (min(places) if empty == "held_out" else max(places))[1]
