"""The passages of all kept rows in a file, as overlap.py hashes them: written in the rows' order, read again in batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from core.data.shingles import Runs

PASSAGE_ROWS = 4096  # read at a time


class PassageFile:
    """8 bytes a passage on disk, 4 bytes a row in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")
        self._counts = array("I")

    def add(self, passages: Runs, stayed: npt.NDArray[np.bool_]) -> None:
        """Add the passages of those rows of a batch that stayed."""
        kept = those(passages, stayed)
        self._file.write(kept.hashes.tobytes())
        self._counts.frombytes(_counts(kept).astype(np.uint32).tobytes())

    def read(self, rows: int) -> Iterator[tuple[int, Runs]]:
        """Yield the number of the first row and the passages of so many rows, or what is left of them."""
        self._file.flush()
        counts = np.frombuffer(self._counts, dtype=np.uint32).astype(np.int64)
        with self._path.open("rb") as file:
            for start in range(0, len(counts), rows):
                some = counts[start : start + rows]
                offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(some)]).astype(np.uint64)
                yield start, Runs(np.frombuffer(file.read(8 * int(some.sum())), dtype=np.uint64), offsets)

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def those(runs: Runs, chosen: npt.NDArray[np.bool_]) -> Runs:
    """Return the passages of the chosen texts."""
    counts = _counts(runs)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts[chosen])]).astype(np.uint64)
    return Runs(runs.hashes[np.repeat(chosen, counts)], offsets)


def _counts(runs: Runs) -> npt.NDArray[np.int64]:
    ends = runs.offsets.astype(np.int64)
    counts: npt.NDArray[np.int64] = ends[1:] - ends[:-1]
    return counts
