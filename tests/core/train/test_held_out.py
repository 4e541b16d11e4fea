"""Which held-out rows go through a student together."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from core.data.record import TokenisedRow
from core.env.memory_need import HELD_OUT_TOKENS
from core.train.held_out.batching import batches


def row(number: int, length: int) -> TokenisedRow:
    return TokenisedRow(row_id=str(number), input_ids=(1,) * length, completion_mask=(1,) * length)


@given(st.lists(st.integers(1, 2 * HELD_OUT_TOKENS), max_size=40), st.integers(1, 16))
def test_every_row_is_in_one_batch_and_none_has_too_many_tokens(lengths: list[int], most: int) -> None:
    rows = [row(number, length) for number, length in enumerate(lengths)]
    made = list(batches(rows, most))
    assert sorted(one.row_id for batch in made for one in batch) == sorted(one.row_id for one in rows)
    for batch in made:
        padded = len(batch) * max(len(one.input_ids) for one in batch)
        assert len(batch) == 1 or (len(batch) <= most and padded <= HELD_OUT_TOKENS)
    for batch, following in pairwise(made):  # none is smaller than it must be
        assert len(batch) == most or (len(batch) + 1) * len(following[0].input_ids) > HELD_OUT_TOKENS
