"""The first row of each key is remembered, whatever the batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from core.data.seen import Seen


@given(st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=9))
def test_a_key_names_its_first_row_in_whatever_batches_it_comes(batches: list[list[int]]) -> None:
    seen, first = Seen(), {}

    for batch in batches:
        found = seen.add(np.array(batch, dtype=np.uint64)).tolist()
        for key, number in zip(batch, found, strict=True):
            assert number == first.get(key, -1)
            first.setdefault(key, len(first))


def test_many_keys_are_found_again_after_they_were_merged() -> None:
    keys = np.arange(100_000, dtype=np.uint64)[::-1] * np.uint64(0x9E3779B97F4A7C15)
    seen = Seen()

    new = [seen.add(keys[start : start + 1000]) for start in range(0, len(keys), 1000)]
    again = seen.add(keys)

    assert all((found == -1).all() for found in new)
    assert again.tolist() == list(range(100_000))
