"""Which rows are held out from training, decided by their content alone.

A row is held out when the hash of its question and context, read as a number in [0, 1), lies below the share. So the
decision never depends on other rows: it stays when the file grows, shrinks or is reordered, and the same question with
another hint falls on the same side. The share is met on average (96 rows at 0.25 give about 24, four more or less).
Only when a small set would leave one side empty, the row nearest to the border changes sides.

Rows that resemble each other must not be parted, so a group, the rows of one cluster of near duplicates and every row that
asks the same as one of them, has one place: the highest of its rows. It is held out only where each row alone would be.
Content alone decides, in any order, so no rule can keep every row where it is when a neighbour of it comes: of two rows
that alone fall on two sides one must give way, and which was there first is not known. What this rule keeps:

- a row that joins no group moves nothing;
- a row that joins a group, or several into one, can move their rows from held_out to train, never from train to held_out:
  what a student has once been trained on is never asked in a later test;
- a row that leaves can move rows of its group only the other way.

The price: of rows in groups of k different questions the share to the power of k is held out, not the share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from core.data.clusters import Forest
from core.data.record import PromptRow, Split
from core.data.repetition import folded_words

_SCALE = float(1 << 64)


def score(user: str, context: str | None) -> float:
    """Return a row's place in [0, 1); case and white space do not count."""
    text = "\x00".join(" ".join(folded_words(part)[1]) for part in (user, context or ""))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / _SCALE


def side(place: float, held_out_share: float) -> Split:
    """Return the split of a row by its score."""
    return "held_out" if place < held_out_share else "train"


def border_row(rows: Iterable[PromptRow], empty: Split) -> str:
    """Return the id of the row that goes to the empty side: the lowest score for held_out, the highest for train."""
    places = ((score(row.user, row.context), row.row_id) for row in rows)
    return (min(places) if empty == "held_out" else max(places))[1]


def border_place(places: npt.NDArray[np.float64], empty: Split) -> float | None:
    """Return the place whose rows, one group, go to the empty side: the lowest for held_out, the highest for train.

    None where all rows are one group, which cannot be parted.
    """
    if not len(places) or places.min() == places.max():
        return None
    return float(places.min() if empty == "held_out" else places.max())


def group_places(places: npt.NDArray[np.float64], cluster_of: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return for each row the place of its group: the highest score of the rows tied to it.

    `cluster_of` names each row's cluster by one of its rows (Clusters.representative). Rows of one cluster are tied, and
    rows of one score, as they ask the same.
    """
    forest = Forest(len(places))
    forest.join(np.arange(len(places), dtype=np.int64), cluster_of)
    order = np.argsort(places, kind="stable")
    same = np.flatnonzero(places[order][1:] == places[order][:-1])
    forest.join(order[same], order[same + 1])
    roots = forest.roots()
    highest = places.copy()
    np.maximum.at(highest, roots, places)
    grouped: npt.NDArray[np.float64] = highest[roots]
    return grouped
