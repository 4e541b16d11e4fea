"""Whole numbers counted in bounded memory: percentiles as numpy has them, bins that hold every row, parts that add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.histogram import EXACT_BELOW, Distribution, Histogram


def counted(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def distribution(values: list[int]) -> Distribution:
    found = counted(values).distribution()
    assert found is not None
    return found


SMALL = st.lists(st.integers(0, EXACT_BELOW - 1), min_size=1, max_size=200)
ANY = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=100)


@settings(max_examples=200, deadline=None)
@given(SMALL)
def test_percentiles_are_exactly_those_of_numpy(values: list[int]) -> None:
    found = distribution(values)

    percents = (1, 5, 25, 50, 75, 95, 99)
    assert [getattr(found, f"p{p}") for p in percents] == [
        np.percentile(values, p, method="inverted_cdf") for p in percents
    ]
    assert (found.rows, found.total, found.minimum, found.maximum) == (len(values), sum(values), min(values), max(values))
    assert found.mean == pytest.approx(np.mean(values))


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_large_numbers_are_rounded_down_by_less_than_a_two_thousandth(values: list[int]) -> None:
    found = distribution(values)

    for percent in (1, 25, 50, 99):
        exact = int(np.percentile(np.array(values, dtype=np.int64), percent, method="inverted_cdf"))
        assert exact * (1 - 1 / 2048) <= getattr(found, f"p{percent}") <= exact
    assert (found.total, found.minimum, found.maximum) == (sum(values), min(values), max(values))


@settings(max_examples=100, deadline=None)
@given(ANY, ANY)
def test_parts_add_up_to_the_whole_in_any_order(left: list[int], right: list[int]) -> None:
    whole = distribution(left + right)

    assert (counted(left) + counted(right)).distribution() == whole
    assert (counted(right) + counted(left) + Histogram()).distribution() == whole


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_every_row_is_in_one_bin_and_the_bins_are_few_and_in_order(values: list[int]) -> None:
    bins = distribution(values).bins

    assert sum(held.rows for held in bins) == len(values)
    assert len(bins) <= 33
    assert all(held.lower <= held.upper for held in bins)
    assert all(left.upper < right.lower for left, right in pairwise(bins))


@settings(max_examples=200, deadline=None)
@given(SMALL)
def test_a_bin_holds_the_rows_between_its_ends(values: list[int]) -> None:
    for held in distribution(values).bins:
        assert held.rows == sum(held.lower <= value <= held.upper for value in values)


def test_bins_have_round_widths_and_one_long_row_does_not_flatten_the_rest() -> None:
    bins = distribution([*range(1, 1000), 1_000_000]).bins

    assert {held.upper - held.lower + 1 for held in bins[:-1]} == {50}
    assert (bins[-1].lower, bins[-1].upper, bins[-1].rows) == (1000, 1_000_000, 1)


def test_memory_is_bounded_whatever_is_counted() -> None:
    histogram = counted(list(range(0, 1 << 20, 7)))

    assert len(histogram._counts) <= EXACT_BELOW + 4 * 2048 + 1


def test_nothing_counted_has_no_distribution() -> None:
    assert Histogram().distribution() is None
