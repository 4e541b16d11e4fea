"""The curve of a range test: smoothing, where it is over, and the rate it suggests."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.search.range_test.curve import curve_of, is_over, smooth
from core.search.section import RangeTest


def valley(lowest: int, steps: int = 40) -> list[float]:
    return [2.0 + ((step - lowest) / lowest) ** 2 for step in range(steps)]


RATES = [1e-5 * 1.3**step for step in range(40)]


@given(st.lists(st.floats(min_value=0.1, max_value=9.0), min_size=1, max_size=30))
def test_a_smoothed_loss_lies_between_the_losses_so_far(losses):
    for count, even in enumerate(smooth(losses), start=1):
        assert min(losses[:count]) - 1e-9 <= even <= max(losses[:count]) + 1e-9


def test_smoothing_a_constant_changes_nothing():
    assert smooth([3.0] * 12) == pytest.approx([3.0] * 12)


def test_the_suggestion_is_a_tenth_of_the_rate_where_the_loss_is_lowest():
    curve = curve_of(RATES, valley(20), "all steps were taken")
    lowest = min(curve.points, key=lambda point: point.smoothed)
    assert curve.suggested_learning_rate == pytest.approx(lowest.learning_rate / 10)
    assert lowest.learning_rate > RATES[20]  # the smoothed loss follows the loss


def test_a_loss_that_only_rises_suggests_nothing():
    assert curve_of(RATES, [1.0 + step for step in range(40)], "").suggested_learning_rate is None
    assert curve_of([], [], "").suggested_learning_rate is None


def test_no_rate_below_the_tested_ones_is_suggested():
    assert curve_of(RATES, valley(2), "").suggested_learning_rate == RATES[0]


@pytest.mark.parametrize(
    ("losses", "over"),
    [([3.0, 2.0, 2.5], False), ([3.0, 2.0, math.nan], True), ([3.0, math.inf], True), ([1.0] * 9 + [99.0] * 3, True)],
)
def test_a_test_is_over_when_the_loss_is_lost(losses, over):
    assert is_over(losses, 2.0) is over


def test_the_rate_reaches_its_end_in_the_last_step():
    test = RangeTest(steps=50, low=1e-6, high=0.2)
    assert test.low * test.factor ** (test.steps - 1) == pytest.approx(test.high)
