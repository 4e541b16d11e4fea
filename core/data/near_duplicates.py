"""Near duplicates: MinHash signatures (rensa), found by locality-sensitive hashing, clustered; exact ones come first.

A text is the set of its 5-character shingles (shingles.py). Of 540-character chats with 5 % of the words edited the median
Jaccard similarity is .89, of single questions with one word edited .80; word 5-grams, made for web pages, give .64 and
.40. Unrelated rows stay below .35 (chats) and, in 999 of 1,000 pairs of questions, .57.

A signature is one byte a slot, 8 slots a band: a band is a 64-bit key. Rows that share a key are candidates, and are
linked when their whole signatures agree on `threshold`. What is found with the defaults, by `chance_of_detection`:

    Jaccard similarity   .60   .65   .70   .75   .80   .85   .90   1
    found                .00   .00   .04   .49   .97  1.00  1.00   1

Work and memory are linear: equal texts are one text, and in a bucket each row is compared with its leader, the row of the
lowest text hash, the rest with the next leader, a few times, never pairwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil, comb
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from core.data.clusters import Clusters, Forest, Rows, Similarities, representatives
from core.data.shingles import chunks, normalise, shingles

BANDS = 32
THRESHOLD = 0.75

_SLOTS = 8  # a band, one byte a slot, is read as one 64-bit number
_CHANCE = 1 / 256  # that two different slots have the same byte
_SEED = 42
_LEADERS = 8  # a bucket whose rows resemble none of this many leaders is a coincidence, or found in another band
_ROWS_AT_ONCE = 1 << 15
_COMPARED_AT_ONCE = 1 << 9  # rows lie anywhere in the mapped file, and with each the system maps 64 KiB around it
_KEYS_BYTES = 1 << 27

Signatures = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Fingerprints:
    """What is kept of a batch of texts: the hash of each normal text and its signature, 8 + 8 `bands` bytes a row."""

    text_hashes: npt.NDArray[np.uint64]
    signatures: Signatures

    def those(self, chosen: npt.NDArray[np.bool_]) -> Fingerprints:
        """Return the fingerprints of the chosen texts."""
        return Fingerprints(self.text_hashes[chosen], self.signatures[chosen])


def fingerprint(texts: Sequence[str], bands: int = BANDS) -> Fingerprints:
    """Return the fingerprints of a batch; the same on every machine, for one version of rensa's algorithm (2)."""
    return fingerprint_normal([normalise(text) for text in texts], bands)


def fingerprint_normal(normal: Sequence[str], bands: int = BANDS) -> Fingerprints:
    """Return the fingerprints of texts that are in their normal form already."""
    unique = {text: place for place, text in enumerate(dict.fromkeys(normal))}
    hashes = np.fromiter(map(_text_hash, unique), dtype=np.uint64, count=len(unique))
    signed = [_signatures(chunk, bands) for chunk in chunks(list(unique))]
    signatures = np.concatenate([np.empty((0, bands * _SLOTS), dtype=np.uint8), *signed])
    places = np.fromiter((unique[text] for text in normal), dtype=np.int64, count=len(normal))
    return Fingerprints(hashes[places], signatures[places])


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _signatures(normal_texts: Sequence[str], bands: int) -> Signatures:
    runs = shingles(normal_texts)
    slots = bands * _SLOTS
    rows = RMinHash.digest_matrix_from_flat_token_hashes(runs.hashes, runs.offsets, slots, _SEED).to_rows()
    flat = np.fromiter(chain.from_iterable(rows), dtype=np.uint32, count=len(rows) * slots)  # twice as fast as np.array
    return flat.astype(np.uint8).reshape(-1, slots)


def chance_of_detection(jaccard: float, bands: int = BANDS, threshold: float = THRESHOLD) -> float:
    """Return the probability that two rows of this similarity are linked.

    The slots that agree are binomial; of the arrangements of so many slots, those that fill a whole band are counted by
    inclusion and exclusion. rensa's slots vary a little less than binomially, so the real curve is a little steeper.
    """
    slots = bands * _SLOTS
    agree = jaccard + (1 - jaccard) * _CHANCE
    needed = ceil(slots * (threshold * (1 - _CHANCE) + _CHANCE) - 1e-9)
    return float(
        sum(
            comb(slots, count) * agree**count * (1 - agree) ** (slots - count) * _fills_a_band(count, bands)
            for count in range(needed, slots + 1)
        )
    )


def _fills_a_band(count: int, bands: int) -> float:
    slots = bands * _SLOTS
    most = min(bands, count // _SLOTS)
    ways = sum(
        (-1) ** (full + 1) * comb(bands, full) * comb(slots - full * _SLOTS, count - full * _SLOTS)
        for full in range(1, most + 1)
    )
    return float(ways / comb(slots, count))


class Deduplicator:
    """Takes the fingerprints of all rows, in their order, and clusters them.

    It keeps 20 + 8 `bands` bytes a row in files of the folder, none in memory; `clusters` holds some 40 bytes a row
    and 128 MiB of keys.
    """

    def __init__(self, folder: Path, bands: int = BANDS, threshold: float = THRESHOLD) -> None:
        self._bands = bands
        self._threshold = threshold
        self._rows = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = {name: folder / f"{name}.bin" for name in ("texts", "signatures", "answers", "rows")}
        self._files = {name: path.open("wb") for name, path in self._paths.items()}

    def __enter__(self) -> Deduplicator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(
        self,
        fingerprints: Fingerprints,
        answer_chars: Sequence[int] | npt.NDArray[np.uint32],
        row_hashes: Sequence[int] | npt.NDArray[np.uint64],
    ) -> None:
        """Add the next rows: with each the length of its answer, 0 without one, and a 64-bit hash of all it holds.

        ValueError when the lengths differ or the fingerprints have another number of bands.
        """
        count = len(fingerprints.text_hashes)
        if {len(fingerprints.signatures), len(answer_chars), len(row_hashes)} != {count}:
            raise ValueError(f"{count} text hashes, but {len(answer_chars)} answers and {len(row_hashes)} row hashes")
        if fingerprints.signatures.shape[1] != self._bands * _SLOTS:
            raise ValueError(f"signatures of {fingerprints.signatures.shape[1]} bytes, not {self._bands * _SLOTS}")
        self._files["texts"].write(fingerprints.text_hashes.tobytes())
        self._files["signatures"].write(fingerprints.signatures.tobytes())
        self._files["answers"].write(np.asarray(answer_chars, dtype=np.uint32).tobytes())
        self._files["rows"].write(np.asarray(row_hashes, dtype=np.uint64).tobytes())
        self._rows += count

    def clusters(self) -> Clusters:
        """Return the clusters of all rows added; the order in which they came changes only their numbers."""
        for file in self._files.values():
            file.flush()
        texts = self._read("texts", np.dtype(np.uint64))
        signatures = self._read("signatures", np.dtype(np.uint8)).reshape(self._rows, self._bands * _SLOTS)
        forest = Forest(self._rows)
        _Linker(signatures, texts, forest, self._threshold).link(_link_equal(texts, forest))
        return self._described(forest.roots(), texts, signatures)

    def _read(self, name: str, kind: np.dtype[Any]) -> npt.NDArray[Any]:
        return np.memmap(self._paths[name], kind, "r") if self._rows else np.empty(0, dtype=kind)

    def _described(self, roots: Rows, texts: npt.NDArray[np.uint64], signatures: Signatures) -> Clusters:
        answers, row_hashes = (self._read(name, np.dtype(kind)) for name, kind in (("answers", "u4"), ("rows", "u8")))
        chosen = representatives(roots, answers, row_hashes)
        others = np.flatnonzero(chosen != np.arange(len(chosen)))
        similarity = np.ones(len(chosen), dtype=np.float32)
        similarity[others] = _similarities(signatures, others, chosen[others])
        return Clusters(chosen, similarity, texts == texts[chosen], self._threshold)

    def close(self) -> None:
        """Close and remove the files."""
        for name, file in self._files.items():
            file.close()
            self._paths[name].unlink(missing_ok=True)


class _Linker:
    """Links the rows that share a band's key with the leaders of their bucket."""

    def __init__(self, signatures: Signatures, texts: npt.NDArray[np.uint64], forest: Forest, threshold: float) -> None:
        self._signatures = signatures
        self._texts = texts
        self._forest = forest
        self._threshold = threshold

    def link(self, rows: Rows) -> None:
        """Link these rows, all of different texts."""
        for keys in self._keys(rows):
            order = np.argsort(keys)
            ordered = keys[order]
            same = ordered[1:] == ordered[:-1]
            shared = np.zeros(len(order), dtype=np.bool_)
            shared[1:] |= same
            shared[:-1] |= same
            self._link_buckets(rows[order[shared]], ordered[shared])

    def _keys(self, rows: Rows) -> Iterator[npt.NDArray[np.uint64]]:
        """Yield the rows' keys band by band, reading the file as seldom as the memory allows."""
        by_band = self._signatures.view("<u8")
        bands = by_band.shape[1]
        at_once = min(bands, max(1, _KEYS_BYTES // (8 * max(1, len(rows)))))
        keys = np.empty((at_once, len(rows)), dtype=np.uint64)
        for start in range(0, bands, at_once):
            some = keys[: bands - start]
            for first in range(0, len(rows), _ROWS_AT_ONCE):
                chosen = rows[first : first + _ROWS_AT_ONCE]
                some[:, first : first + len(chosen)] = by_band[chosen, start : start + len(some)].T
                _forget(self._signatures)
            yield from some

    def _link_buckets(self, rows: Rows, keys: npt.NDArray[np.uint64]) -> None:
        order = np.lexsort((self._texts[rows], keys))
        rows, keys = rows[order], keys[order]
        for _ in range(_LEADERS):
            if not len(rows):
                return
            starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
            leaders = np.repeat(rows[starts], np.diff(starts, append=len(rows)))
            left = rows != leaders
            left &= self._forest.find(rows) != self._forest.find(leaders)
            tried = np.flatnonzero(left)
            alike = tried[_similarities(self._signatures, rows[tried], leaders[tried]) >= self._threshold]
            self._forest.join(rows[alike], leaders[alike])
            left[alike] = False
            rows, keys = rows[left], keys[left]


def _link_equal(texts: npt.NDArray[np.uint64], forest: Forest) -> Rows:
    """Join the rows of equal texts and return one of each text."""
    order = np.argsort(texts)
    again = texts[order[1:]] == texts[order[:-1]]
    forest.join(order[1:][again], order[:-1][again])
    return np.sort(order[np.append(True, ~again)[: len(order)]])


def _similarities(signatures: Signatures, left: Rows, right: Rows) -> Similarities:
    """Estimate the Jaccard similarity of pairs of rows by their signatures."""
    slots = signatures.shape[1]
    found = np.empty(len(left), dtype=np.float32)
    for start in range(0, len(left), _COMPARED_AT_ONCE):
        pairs = slice(start, start + _COMPARED_AT_ONCE)
        agree = np.count_nonzero(signatures[left[pairs]] == signatures[right[pairs]], axis=1)
        found[pairs] = np.clip((agree / slots - _CHANCE) / (1 - _CHANCE), 0, 1)
        _forget(signatures)
    return found


def _forget(mapped: npt.NDArray[Any]) -> None:
    """Give back the memory that a mapped file's pages took; they stay in the system's cache while that has room."""
    base: Any = mapped
    while base is not None and not isinstance(base, mmap):
        base = base.base
    if base is not None:
        base.madvise(MADV_DONTNEED)
