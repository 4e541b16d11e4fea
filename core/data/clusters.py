"""Rows that belong together: linking them in vectors, and the clusters that come of it, each with one representative."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Similarities = npt.NDArray[np.float32]


class Forest:
    """Disjoint sets of the numbers below `count`, joined many pairs at a time; 8 bytes a number.

    Every join hooks a root to a lower one and halves the paths, so joining takes O(log n) sweeps over the pairs given,
    whatever their order.
    """

    def __init__(self, count: int) -> None:
        self._parent: Rows = np.arange(count, dtype=np.int64)

    def find(self, numbers: Rows) -> Rows:
        """Return the lowest number of each one's set, as far as it is linked."""
        found = self._parent[numbers]
        while True:
            higher = self._parent[found]
            if np.array_equal(higher, found):
                return found
            self._parent[numbers] = found = self._parent[higher]

    def join(self, left: Rows, right: Rows) -> None:
        """Make one set of the two sets of each pair."""
        while True:
            left, right = self.find(left), self.find(right)
            apart = left != right
            left, right = left[apart], right[apart]
            if not len(left):
                return
            np.minimum.at(self._parent, np.maximum(left, right), np.minimum(left, right))

    def roots(self) -> Rows:
        """Return the lowest number of every number's set."""
        return self.find(np.arange(len(self._parent), dtype=np.int64))


@dataclass(frozen=True)
class Cluster:
    """Rows that resemble each other, the representative first; `lowest_similarity` is any member's to it."""

    representative: int
    rows: tuple[int, ...]
    equal: int
    lowest_similarity: float


@dataclass(frozen=True)
class Clusters:
    """What was found for every row, by its number.

    `representative[n]` is the row that stands for n, n itself where it is alone or stands for others; `similarity[n]`
    the estimated Jaccard similarity to it; `equal[n]` says that it has the same normal text. In a chain, where a
    resembles b and b resembles c, `similarity` may lie below `threshold`: such a row is in the cluster, so on its side
    of the split, but it is no duplicate of the representative.
    """

    representative: Rows
    similarity: Similarities
    equal: npt.NDArray[np.bool_]
    threshold: float

    def duplicates(self) -> npt.NDArray[np.bool_]:
        """Mark the rows that their representative makes needless: the same text, or similar enough to it by themselves."""
        others = self.representative != np.arange(len(self.representative))
        found: npt.NDArray[np.bool_] = others & (self.equal | (self.similarity >= self.threshold))
        return found

    def found(self) -> Iterator[Cluster]:
        """Yield the clusters of two rows and more, the largest first, then by representative."""
        sizes = np.bincount(self.representative, minlength=len(self.representative))
        members = np.flatnonzero(sizes[self.representative] > 1)
        heads = self.representative[members]
        order = np.lexsort((members != heads, heads, -sizes[heads]))
        members, heads = members[order], heads[order]
        starts = np.flatnonzero(np.diff(heads, prepend=-1))
        for start, end in pairwise([*starts, len(members)]):
            rows = members[start:end]
            yield Cluster(
                representative=int(heads[start]),
                rows=tuple(rows.tolist()),
                equal=int(self.equal[rows].sum()),
                lowest_similarity=float(self.similarity[rows].min()),
            )


def representatives(roots: Rows, answer_chars: npt.NDArray[np.uint32], row_hashes: npt.NDArray[np.uint64]) -> Rows:
    """Return the row that stands for each row's set: the longest answered one, of these the one with the lowest hash.

    Rows with one hash hold the same, so the order in which rows come decides nothing but which of equal ones is named.
    """
    sizes = np.bincount(roots, minlength=len(roots))
    members = np.flatnonzero(sizes[roots] > 1)
    longest_first = np.lexsort((members, row_hashes[members], ~answer_chars[members], roots[members]))
    members = members[longest_first]
    firsts = np.flatnonzero(np.diff(roots[members], prepend=-1))
    chosen = np.arange(len(roots), dtype=np.int64)
    chosen[members] = np.repeat(members[firsts], np.diff(firsts, append=len(members)))
    return chosen
