"""Which held-out rows go through a student together; needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from core.data.record import TokenisedRow
from core.env.memory_need import HELD_OUT_TOKENS


def batches(rows: Iterable[TokenisedRow], most_rows: int) -> Iterator[list[TokenisedRow]]:
    """Yield the rows with like lengths together, at most so many and, padded, HELD_OUT_TOKENS at once; one row at least."""
    batch: list[TokenisedRow] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        if batch and (len(batch) == most_rows or (len(batch) + 1) * len(row.input_ids) > HELD_OUT_TOKENS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
