"""Which row was the first of a kind: 64-bit keys in order, looked up a batch at a time, 16 bytes a key.

Of two million different rows two share a key with a chance of one in nine million.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

_MERGE_AT = 1 << 14


class Seen:
    """The keys that came so far, each with the number of its first row."""

    def __init__(self) -> None:
        self._keys: Keys = np.empty(0, dtype=np.uint64)
        self._numbers: Numbers = np.empty(0, dtype=np.int64)
        self._recent: dict[int, int] = {}
        self._rows = 0

    def add(self, keys: Keys) -> Numbers:
        """Return for each key the number of the row that had it before, -1 for a new one, which then gets the next number."""
        found = self._known(keys)
        for place in np.flatnonzero(found < 0):
            key = int(keys[place])
            first = self._recent.get(key)
            if first is None:
                self._recent[key] = self._rows
                self._rows += 1
            else:
                found[place] = first
        if len(self._recent) >= max(_MERGE_AT, len(self._keys) // 8):
            self._merge()
        return found

    def _known(self, keys: Keys) -> Numbers:
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._numbers[places], -1)

    def _merge(self) -> None:
        count = len(self._recent)
        keys = np.concatenate([self._keys, np.fromiter(self._recent.keys(), np.uint64, count)])
        numbers = np.concatenate([self._numbers, np.fromiter(self._recent.values(), np.int64, count)])
        order = np.argsort(keys)
        self._keys, self._numbers = keys[order], numbers[order]
        self._recent = {}
