"""Differences and their intervals: what chance gives is no clear difference, what is there is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.compare.difference import FEWEST, difference

values = st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2, st.floats(0.1, 1e3)), min_size=1, max_size=40)


@given(values, st.booleans())
def test_the_interval_holds_the_difference_and_turning_round_turns_the_sign(told, lower_is_better: bool) -> None:
    first, second, weights = zip(*told, strict=True)
    one = difference("x", first, second, weights, lower_is_better=lower_is_better)
    other = difference("x", second, first, weights, lower_is_better=lower_is_better)
    assert one.difference == pytest.approx(one.second - one.first, abs=1e-6)
    assert one.difference == pytest.approx(-other.difference)
    assert one.low <= one.high
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-6)
    turned = {"better": "worse", "worse": "better"}
    assert other.verdict == turned.get(one.verdict, one.verdict)


@given(st.lists(st.floats(-10, 10), min_size=FEWEST, max_size=60))
def test_the_same_figures_are_no_clear_difference(figures: list[float]) -> None:
    found = difference("x", figures, figures, [1.0] * len(figures), lower_is_better=True)
    assert (found.low, found.difference, found.high, found.verdict) == (0, 0, 0, "no clear difference")


def test_chance_alone_is_called_a_difference_about_as_often_as_the_confidence_says() -> None:
    drawn = np.random.default_rng(1)
    told = 0
    for _ in range(200):
        pairs = drawn.normal(size=(2, 40))
        found = difference("x", pairs[0].tolist(), pairs[1].tolist(), [1.0] * 40, lower_is_better=True)
        told += found.verdict != "no clear difference"
    assert 2 <= told <= 22  # 10 of 200 on average; a bootstrap of 40 is a little too sure


def test_a_difference_that_is_there_is_found_and_one_prompt_is_never_enough() -> None:
    first, second = [1.0 + 0.01 * i for i in range(20)], [0.9 + 0.01 * i for i in range(20)]
    weights = [1.0] * 20
    assert difference("x", first, second, weights, lower_is_better=True).verdict == "better"
    assert difference("x", first, second, weights, lower_is_better=False).verdict == "worse"
    few = difference("x", first[: FEWEST - 1], second[: FEWEST - 1], weights[: FEWEST - 1], lower_is_better=True)
    assert few.verdict == "too few prompts"


def test_one_outlier_is_no_clear_difference() -> None:
    first = [0.0] * 19 + [0.0]
    second = [0.0] * 19 + [100.0]
    assert difference("x", first, second, [1.0] * 20, lower_is_better=True).verdict == "no clear difference"
