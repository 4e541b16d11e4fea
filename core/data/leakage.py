"""Training rows that give away held-out rows: two rows on two sides of the split that share a good part of their passages.

Not every passage of 12 words that stands on both sides gives something away. Left out are

- a passage that more than `template_rows` rows hold: an instruction, a disclaimer, a form. It is no secret of a held-out row;
- two rows that share less than `min_shared` of the passages of either: a turn of phrase, a chance. Among 14,000 rows made of 16
  patterns of sentences, 3,100 shared one passage or two with some other row, 150 a tenth of their passages.

Where several held-out rows hold a passage, it counts for the first of them. The passages are read from their file four times, a
batch at a time; in memory are some 25 bytes for each passage that stands on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.limits import DuplicateLimits
from core.data.overlap import PassageIndex
from core.data.passages import PASSAGE_ROWS, PassageFile, those
from core.data.shingles import Runs

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Leaks:
    """For each row the held-out row it gives away most of, -1 without one, and where the first shared passage begins, in words.

    `shares` is of the passages of that held-out row, or with `own` of the row's own, whichever is the larger share.
    """

    of: npt.NDArray[np.int32]
    places: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float32]
    own: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Shared:
    """The passages that stand on both sides: how many rows hold each, which held-out row is the first.

    `sizes` is the number of passages of every row.
    """

    index: PassageIndex
    rows: npt.NDArray[np.uint32]
    holder: npt.NDArray[np.int32]
    held_out: npt.NDArray[np.bool_]
    sizes: Numbers


def find_leaks(file: PassageFile, held_out: npt.NDArray[np.bool_], limits: DuplicateLimits) -> tuple[Leaks, float]:
    """Return the leaks and the share of the held-out rows' passages that were looked for, below 1 only past `max_passages`."""
    count = len(held_out)
    leaks = Leaks(
        np.full(count, -1, dtype=np.int32),
        np.zeros(count, dtype=np.int32),
        np.zeros(count, dtype=np.float32),
        np.zeros(count, dtype=np.bool_),
    )
    index, kept_share = _on_both_sides(file, held_out, limits.max_passages)
    if len(index):
        shared = _counted(file, held_out, index)
        for start, runs in file.read(PASSAGE_ROWS):
            _tell(leaks, start, runs, shared, limits)
    return leaks, kept_share


def _on_both_sides(file: PassageFile, held_out: npt.NDArray[np.bool_], max_passages: int) -> tuple[PassageIndex, float]:
    unseen, both = PassageIndex(max_passages), PassageIndex(max_passages)
    for start, runs in file.read(PASSAGE_ROWS):
        unseen.add(those(runs, _part(held_out, start, runs)))
    for start, runs in file.read(PASSAGE_ROWS):
        trained = those(runs, ~_part(held_out, start, runs))
        hits = trained.hashes[unseen.holds(trained.hashes)]
        both.add(Runs(hits, np.array([0, len(hits)], dtype=np.uint64)))
    return both, unseen.kept_share


def _part(held_out: npt.NDArray[np.bool_], start: int, runs: Runs) -> npt.NDArray[np.bool_]:
    return held_out[start : start + len(runs.offsets) - 1]


def _counted(file: PassageFile, held_out: npt.NDArray[np.bool_], index: PassageIndex) -> _Shared:
    shared = _Shared(
        index=index,
        rows=np.zeros(len(index), dtype=np.uint32),
        holder=np.full(len(index), np.iinfo(np.int32).max, dtype=np.int32),
        held_out=held_out,
        sizes=np.zeros(len(held_out), dtype=np.int64),
    )
    for start, runs in file.read(PASSAGE_ROWS):
        rows, _, found = _hits(start, runs, index)
        shared.sizes[start : start + len(runs.offsets) - 1] = np.diff(runs.offsets.astype(np.int64))
        once = np.unique(rows * len(index) + found)  # a row that says a passage twice is one row
        np.add.at(shared.rows, once % len(index), 1)
        unseen = held_out[rows]
        np.minimum.at(shared.holder, found[unseen], rows[unseen].astype(np.int32))
    return shared


def _hits(start: int, runs: Runs, index: PassageIndex) -> tuple[Numbers, Numbers, Numbers]:
    """Return of each passage that is in the index the row, its place in the row, and its number in the index."""
    offsets = runs.offsets.astype(np.int64)
    places = np.flatnonzero(index.holds(runs.hashes))
    rows = np.searchsorted(offsets, places, side="right") - 1
    return rows + start, places - offsets[rows], np.searchsorted(index.hashes, runs.hashes[places]).astype(np.int64)


def _tell(leaks: Leaks, start: int, runs: Runs, shared: _Shared, limits: DuplicateLimits) -> None:
    """Fill in what the rows of a batch give away."""
    rows, places, found = _hits(start, runs, shared.index)
    telling = ~shared.held_out[rows] & (shared.rows[found] <= limits.template_rows)
    rows, places, of = rows[telling], places[telling], shared.holder[found[telling]].astype(np.int64)
    count = len(shared.held_out)
    keys, firsts, counts = np.unique(rows * count + of, return_index=True, return_counts=True)
    rows, of = keys // count, keys % count
    parts, wholes = counts / shared.sizes[rows], counts / shared.sizes[of]
    shares = np.maximum(parts, wholes)
    for place in np.flatnonzero(shares >= limits.min_shared):
        row = rows[place]
        if shares[place] > leaks.shares[row]:
            leaks.of[row], leaks.shares[row] = of[place], shares[place]
            leaks.places[row], leaks.own[row] = places[firsts[place]], parts[place] > wholes[place]
