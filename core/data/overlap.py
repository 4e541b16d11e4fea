"""Texts that hold passages of other texts: held-out rows in the training rows, evaluation files in either.

A passage is 12 words in a row, as in datatrove's decontamination; a text with fewer words must be equal as a whole (a short
evaluation text that a longer row quotes is found by evaluation.py). Only one side is kept, as 64-bit hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.data.shingles import Hashes, Runs, chunks, normalise, word_runs, words_of

PASSAGE_WORDS = 12
MAX_PASSAGES = 20_000_000  # 160 MB of hashes, some 240,000 chats of 560 characters

_ALL = 1 << 64
_PENDING = 1 << 20
_AT_ONCE = 1 << 20  # hashes worked on at once, so that what is in between takes little memory


@dataclass(frozen=True)
class Overlaps:
    """What was found in each text of a batch.

    `passages` is how many passages the text has (a short one is one passage), `hits` how many of them are in the index,
    `first` the place of the first, counted in words from the start, -1 without a hit.
    """

    passages: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


def passages_of(texts: Sequence[str], words: int = PASSAGE_WORDS) -> Runs:
    """Return the hashes of all passages of a batch of texts, the same on every machine."""
    return passages_of_normal([normalise(text) for text in texts], words)


def passages_of_normal(normal: Sequence[str], words: int = PASSAGE_WORDS) -> Runs:
    """Return the hashes of all passages of texts that are in their normal form already."""
    parts = [word_runs(chunk, words) for chunk in chunks(normal)]
    counts = [np.diff(part.offsets.astype(np.int64)) for part in parts]
    offsets = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *counts])).astype(np.uint64)
    return Runs(np.concatenate([np.empty(0, dtype=np.uint64), *(part.hashes for part in parts)]), offsets)


def passage_at(text: str, place: int, words: int = PASSAGE_WORDS) -> str:
    """Return the passage that starts at a word, as it stands in the normal form of the text without punctuation."""
    return " ".join(words_of(normalise(text))[place : place + words])


class PassageIndex:
    """The passages of the texts that must not be seen elsewhere: at most `max_passages` hashes, 8 bytes each, 2 for a sieve.

    When there are more, only the hashes below a limit are kept, halved as often as it takes, so that memory is bounded
    and what is kept does not depend on order. `kept_share` is then below 1, and a text that shares m passages is found
    with the probability 1 - (1 - kept_share)^m.
    """

    def __init__(self, max_passages: int = MAX_PASSAGES) -> None:
        self._max = max_passages
        self._limit = _ALL
        self._hashes: Hashes = np.empty(0, dtype=np.uint64)
        self._sieve: npt.NDArray[np.uint8] | None = None
        self._pending: list[Hashes] = []
        self._pending_count = 0

    def __len__(self) -> int:
        self._merge()
        return len(self._hashes)

    @property
    def hashes(self) -> Hashes:
        """Return what the index holds, sorted."""
        self._merge()
        return self._hashes

    @property
    def kept_share(self) -> float:
        """Return the share of all passages that the index can know."""
        self._merge()
        return self._limit / _ALL

    def add(self, passages: Runs) -> None:
        """Add the passages of a batch of texts."""
        self._pending.append(passages.hashes)
        self._pending_count += len(passages.hashes)
        if self._pending_count >= max(_PENDING, len(self._hashes) // 4):
            self._merge()

    def find(self, passages: Runs) -> Overlaps:
        """Return which passages of a batch of texts are in the index."""
        offsets = passages.offsets.astype(np.int64)
        counts = np.diff(offsets)
        known = self.holds(passages.hashes)
        hits = np.flatnonzero(known)
        text_of = np.searchsorted(offsets, hits, side="right") - 1
        found = np.bincount(text_of, minlength=len(counts)).astype(np.int64)
        first = np.full(len(counts), -1, dtype=np.int64)
        first[text_of[::-1]] = (hits - offsets[text_of])[::-1]
        return Overlaps(passages=counts, hits=found, first=first)

    def holds(self, hashes: Hashes) -> npt.NDArray[np.bool_]:
        """Say of each hash whether it is in the index."""
        self._merge()
        if self._sieve is None:
            self._sieve = _sieve_of(self._hashes)
        known = _pass(self._sieve, hashes)
        maybe = hashes[known]
        places = np.searchsorted(self._hashes, maybe)
        places[places == len(self._hashes)] = 0
        known[known] = self._hashes[places] == maybe if len(self._hashes) else False
        return known

    def _merge(self) -> None:
        if not self._pending:
            return
        self._sieve = None
        known = len(self._hashes)
        self._hashes.resize(known + self._pending_count, refcheck=False)  # in place: a copy would be 160 MB
        np.concatenate(self._pending, out=self._hashes[known:])
        self._pending, self._pending_count = [], 0
        self._hashes.sort()  # numpy's `unique`, by a hash table, takes ninety times as long on ten million
        kept = _without_repeats(self._hashes)
        while (kept := self._below_limit(kept)) > self._max:
            self._limit //= 2
        self._hashes.resize(kept, refcheck=False)

    def _below_limit(self, count: int) -> int:
        return count if self._limit == _ALL else int(np.searchsorted(self._hashes[:count], np.uint64(self._limit)))


def _without_repeats(ordered: Hashes) -> int:
    """Move what differs from the one before to the front, in place, and return how many that are."""
    kept = 0
    for start in range(0, len(ordered), _AT_ONCE):
        some = ordered[start : start + _AT_ONCE]
        differs = np.append(not kept or some[0] != ordered[kept - 1], some[1:] != some[:-1])
        fresh = some[differs]
        ordered[kept : kept + len(fresh)] = fresh
        kept += len(fresh)
    return kept


def _sieve_of(hashes: Hashes) -> npt.NDArray[np.uint8]:
    """Return a bit for every low part of a hash that occurs; one in eight to sixteen is set, the rest is known to be new."""
    sieve = np.zeros(max(1 << 10, 1 << (2 * len(hashes)).bit_length()) >> 1, dtype=np.uint8)
    for start in range(0, len(hashes), _AT_ONCE):
        np.bitwise_or.at(sieve, *_bits(sieve, hashes[start : start + _AT_ONCE]))
    return sieve


def _bits(sieve: npt.NDArray[np.uint8], hashes: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    places = ((hashes >> np.uint64(3)) & np.uint64(len(sieve) - 1)).astype(np.int64)
    return places, np.left_shift(np.uint8(1), (hashes & np.uint64(7)).astype(np.uint8), dtype=np.uint8)


def _pass(sieve: npt.NDArray[np.uint8], hashes: Hashes) -> npt.NDArray[np.bool_]:
    places, bits = _bits(sieve, hashes)
    passing: npt.NDArray[np.bool_] = (sieve[places] & bits) != 0
    return passing
