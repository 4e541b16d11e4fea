"""Evaluation files as what no row may hold: their passages, and their shorter texts, which count when a row quotes one whole.

A text of fewer words than a passage has is looked for by its own length, so one pass over a row's words for each length that
occurs, whatever the number of texts. Texts of fewer words than `duplicates.quoted_words` are everyday phrases ("in the old
town"): they count only as a whole row, as in overlap.py. Those that more than `template_rows` rows quote are phrases too ("which
of the following is true").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from core.contract import Contract
from core.data.flaws import Flaw
from core.data.limits import DuplicateLimits
from core.data.overlap import PassageIndex, passages_of_normal
from core.data.passages import PASSAGE_ROWS, PassageFile
from core.data.readers import read_lines
from core.data.shingles import Runs, chunks, hashed_words, normalise, runs_by_size
from core.data.source import Source

_TEXTS_AT_ONCE = 256
_LONGEST_CHARS = 10_000_000  # of a record
_SIZES = 128  # of passages and quotes in words: data.duplicates.passage_words is at most 100
_PLACE_BITS = 32

Found = npt.NDArray[np.int64]
"""For each text which quote it holds (its number in the index) and, in the lower bits, where; -1 without one."""


class Quotable(Contract):
    """Short texts as hashes, to be sent to the processes that judge: 8 bytes a text, and the lengths in words that occur."""

    hashes: bytes = b""
    sizes: tuple[int, ...] = ()


class Evaluation:
    """What the evaluation files hold."""

    def __init__(self, sources: Sequence[Source], limits: DuplicateLimits) -> None:
        self._limits = limits
        self.passages = PassageIndex(limits.max_passages)
        self.quotes = PassageIndex(limits.max_passages)
        self._sizes: set[int] = set()
        texts: list[str] = []
        for source in sources:
            for line in read_lines(source, _LONGEST_CHARS):
                texts.extend([] if isinstance(record := line.record, Flaw) else map(normalise, _leaves(record)))
                if len(texts) >= _TEXTS_AT_ONCE:
                    self._add(texts)
                    texts = []
        self._add(texts)

    def _add(self, texts: Sequence[str]) -> None:
        self.passages.add(passages_of_normal(texts, self._limits.passage_words))
        for chunk in chunks(texts):
            words = hashed_words(chunk)
            lengths = np.bincount(words.text_of, minlength=len(chunk))
            short = (lengths >= self._limits.quoted_words) & (lengths < self._limits.passage_words)
            for size, hashes, starts in runs_by_size(words, sorted(set(lengths[short].tolist()))):
                whole = hashes[lengths[words.text_of[starts]] == size]
                self.quotes.add(Runs(whole, np.array([0, len(whole)], dtype=np.uint64)))
                self._sizes.add(size)

    def held_in(self, file: PassageFile, quotes: Found) -> Found:
        """Return for each row where it holds a passage of these files, else its quote, as `place_of` reads it, -1 for neither."""
        if not len(self.passages):
            return quotes
        texts, text_of, rows = np.unique(quotes >> _PLACE_BITS, return_inverse=True, return_counts=True)
        found = np.where((texts < 0) | (rows > self._limits.template_rows), np.int64(-1), texts)[text_of]
        found = np.where(found < 0, found, quotes)
        for start, runs in file.read(PASSAGE_ROWS):
            first = self.passages.find(runs).first
            here = slice(start, start + len(first))
            found[here] = np.where(first >= 0, first * _SIZES + self._limits.passage_words, found[here])
        return found

    def kept_shares(self) -> tuple[float, float]:
        """Return the shares of passages and of short texts that are looked for, below 1 only past `max_passages`."""
        return self.passages.kept_share, self.quotes.kept_share

    def quotable(self) -> Quotable:
        """Return the short texts as the processes that judge are told them."""
        return Quotable(hashes=self.quotes.hashes.tobytes(), sizes=tuple(sorted(self._sizes)))


class QuoteFinder:
    """Finds short texts that are quoted whole."""

    def __init__(self, quotable: Quotable) -> None:
        self._sizes = quotable.sizes
        self._index = PassageIndex(max(1, len(quotable.hashes) // 8))
        hashes = np.frombuffer(quotable.hashes, dtype=np.uint64)
        self._index.add(Runs(hashes, np.array([0, len(hashes)], dtype=np.uint64)))

    def find(self, normal_texts: Sequence[str]) -> Found:
        """Return for each text the first of its longest quotes, and where it stands as `place_of` reads it, -1 without one."""
        if not self._sizes:
            return np.full(len(normal_texts), -1, dtype=np.int64)
        parts = [self._in_chunk(chunk) for chunk in chunks(normal_texts)]
        return np.concatenate([np.empty(0, dtype=np.int64), *parts])

    def _in_chunk(self, chunk: Sequence[str]) -> Found:
        words = hashed_words(chunk)
        first = np.searchsorted(words.text_of, np.arange(len(chunk)))
        found = np.full(len(chunk), -1, dtype=np.int64)
        for size, hashes, starts in runs_by_size(words, self._sizes):
            held = np.flatnonzero(self._index.holds(hashes))[::-1]  # backwards, so that the first is written last
            texts = words.text_of[starts[held]]
            quotes = np.searchsorted(self._index.hashes, hashes[held]).astype(np.int64)
            found[texts] = quotes << _PLACE_BITS | ((starts[held] - first[texts]) * _SIZES + size)
        return found


def place_of(found: int) -> tuple[int, int]:
    """Return where a passage or a quote begins, in words from the start of its text, and how many words it has."""
    return divmod(found & ((1 << _PLACE_BITS) - 1), _SIZES)


def _leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value)
