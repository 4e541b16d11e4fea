"""Texts to numbers that can be compared: one normal form, its character shingles, its runs of words, as 64-bit hashes.

All is computed from code points with fixed constants, so the hashes are the same in every process and on every machine.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

SHINGLE_CHARS = 5
# the hash of a text covers all of it; its shingles and words are those of the first 200,000 characters
MAX_CHARS = 200_000
_CHUNK_CHARS = 250_000
_LAST_WORD_CODE = 0x3FFFF  # Unicode's planes 0 to 3; the others hold no letters and no digits

# quotes, dashes, apostrophes and spaces that differ only in how they were typed; invisible characters are dropped
_SAME = (
    *((mark, "'") for mark in "’‘‛ʼ′´"),
    *((mark, '"') for mark in "“”„‟«»″"),
    *((mark, "-") for mark in "‐‑‒–—―−"),
    *((mark, "") for mark in "\u00ad\u200b\u200c\u200d\u2060\ufeff"),
)
_FACTOR = 0x9E3779B97F4A7C15  # odd, so that multiplying by it loses nothing (2^64 over the golden ratio)
_STAFFORD = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64's finaliser, Stafford's Mix13

Hashes = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Runs:
    """Hashes of many texts in one array: those of text n are `hashes[offsets[n]:offsets[n + 1]]`."""

    hashes: Hashes
    offsets: Offsets


def normalise(text: str) -> str:
    """Return the form in which two texts are equal when a reader would call them the same.

    NFC, case folded, quotes, dashes and apostrophes of one kind, white space runs to one space. Not NFKC, which makes
    x² an x2, and punctuation stays, so that 3+4 and 3-4 are two questions.
    """
    folded = text.casefold()
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", folded)
        for mark, plain in _SAME:
            folded = folded.replace(mark, plain)
        folded = unicodedata.normalize("NFC", folded)
    return " ".join(folded.replace("`", "'").replace("\0", " ").split())


def chunks(normal_texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut texts into pieces small enough to be hashed in some 20 MB of memory, each with one text at least."""
    start = filled = 0
    for place, text in enumerate(normal_texts):
        chars = min(len(text), MAX_CHARS)
        if filled and filled + chars > _CHUNK_CHARS:
            yield normal_texts[start:place]
            start, filled = place, 0
        filled += chars + 1
    if start < len(normal_texts):
        yield normal_texts[start:]


def shingles(normal_texts: Sequence[str], chars: int = SHINGLE_CHARS) -> Runs:
    """Return the hashes of every run of that many characters; a shorter text is one run, filled with spaces."""
    parts = [text[:MAX_CHARS].ljust(chars) for text in normal_texts]
    codes = _codes("\0".join(parts))
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    hashes = _mixed(_windows(codes, chars))
    return Runs(hashes[_inside(lengths, len(hashes), chars)], _offsets(lengths - chars + 1))


@dataclass(frozen=True)
class Words:
    """The hashes of all words of many texts, in their order, and which text each is of."""

    hashes: Hashes
    text_of: npt.NDArray[np.int64]


def hashed_words(normal_texts: Sequence[str]) -> Words:
    """Return the words of texts; a word is a run of letters, digits and marks, everything between counts as the same gap."""
    codes = _codes("\0".join([text[:MAX_CHARS] for text in normal_texts]) + "\0")
    starts, ends = _word_bounds(codes)
    return Words(_mixed(_spans(codes, starts, ends)), np.searchsorted(np.flatnonzero(codes == 0), starts))


def word_runs(normal_texts: Sequence[str], words: int) -> Runs:
    """Return the hashes of every run of that many words; a text with fewer words is one run, one with none has none."""
    found = hashed_words(normal_texts)
    counts = np.bincount(found.text_of, minlength=len(normal_texts)).astype(np.int64)
    hashed = found.hashes
    runs = _mixed(_windows(hashed, words)) if len(hashed) >= words else hashed[:0]
    return _with_short_texts(hashed, runs, counts, words)


def runs_by_size(words: Words, sizes: Sequence[int]) -> Iterator[tuple[int, Hashes, npt.NDArray[np.int64]]]:
    """Yield for each size, ascending, the hashes of the runs of so many words that lie in one text, and where each begins.

    They are those of `word_runs`, got one from another, so that all sizes together cost little more than the longest.
    """
    rolling, done = words.hashes, 1
    for size in sorted(sizes):
        if size > len(words.hashes):
            return
        for step in range(done, size):
            rolling = rolling[:-1] * np.uint64(_FACTOR) + words.hashes[step:]
        done = size
        starts = np.flatnonzero(words.text_of[: len(rolling)] == words.text_of[size - 1 :])
        yield size, _mixed(rolling[starts]), starts


def words_of(normal_text: str) -> list[str]:
    """Return the words that `word_runs` counts."""
    starts, ends = _word_bounds(_codes(normal_text[:MAX_CHARS]))
    return [normal_text[start:end] for start, end in zip(starts, ends, strict=True)]


def _with_short_texts(hashed: Hashes, runs: Hashes, counts: npt.NDArray[np.int64], words: int) -> Runs:
    """Pick the runs that lie in one text and put a short text's one run, the hash of all it has, in its place."""
    kept = np.maximum(counts - words + 1, np.minimum(counts, 1))
    offsets = _offsets(kept)
    first = np.cumsum(counts) - counts
    text_of = np.repeat(np.arange(len(counts)), kept)
    start = first[text_of] + np.arange(len(text_of)) - offsets[text_of].astype(np.int64)
    found = np.zeros(len(text_of), dtype=np.uint64)
    whole = counts[text_of] >= words
    found[whole] = runs[start[whole]]
    short = ~whole
    begin, end = first[text_of[short]], (first + counts)[text_of[short]]
    found[short] = _mixed(_spans(hashed, begin, end) + counts[text_of[short]].astype(np.uint64))
    return Runs(found, offsets)


def _codes(text: str) -> Hashes:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def _offsets(counts: npt.NDArray[np.int64]) -> Offsets:
    found = np.zeros(len(counts) + 1, dtype=np.uint64)
    np.cumsum(counts, out=found[1:], dtype=np.uint64)
    return found


def _inside(lengths: npt.NDArray[np.int64], windows: int, size: int) -> npt.NDArray[np.bool_]:
    """Mark the windows that hold no separator."""
    inside = np.ones(windows, dtype=np.bool_)
    separators = (np.cumsum(lengths + 1) - 1)[:-1]
    for back in range(size):
        inside[separators - back] = False
    return inside


def _windows(values: Hashes, size: int) -> Hashes:
    """Return a polynomial of every `size` values in a row, modulo 2^64."""
    count = len(values) - size + 1
    found = values[:count].copy()
    for step in range(1, size):
        found *= np.uint64(_FACTOR)
        found += values[step : step + count]
    return found


def _spans(values: Hashes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Hashes:
    """Return a polynomial of the values from each start to its end: differences of one running sum, shifted to 0."""
    powers, inverses = _powers(1 << max(len(values), 1).bit_length())
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * powers[: len(values)], out=sums[1:], dtype=np.uint64)
    found: Hashes = (sums[ends] - sums[starts]) * inverses[starts]
    return found


@cache
def _powers(count: int) -> tuple[Hashes, Hashes]:
    inverse = pow(_FACTOR, -1, 1 << 64)
    powers, inverses = (np.full(count, factor, dtype=np.uint64) for factor in (_FACTOR, inverse))
    powers[0] = inverses[0] = 1
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverses, dtype=np.uint64)


def _mixed(hashes: Hashes) -> Hashes:
    """Spread every input bit over all output bits, in place."""
    for shift, factor in zip((30, 27), _STAFFORD, strict=True):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(factor)
    hashes ^= hashes >> np.uint64(31)
    return hashes


def _word_bounds(codes: Hashes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    edges = np.diff(_in_words()[np.minimum(codes, np.uint64(_LAST_WORD_CODE))], prepend=np.int8(0), append=np.int8(0))
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)


@cache
def _in_words() -> npt.NDArray[np.int8]:
    """Return 1 for each code point that is part of a word."""
    return np.fromiter((unicodedata.category(chr(code))[0] in "LNM" for code in range(_LAST_WORD_CODE + 1)), dtype=np.int8)
