"""Slow changes: the exact test against every order, held-out losses that rise, losses that fall no more."""

from __future__ import annotations

import math
import random
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.train.alarm import Alarm
from core.train.limits import DetectionLimits
from core.train.trend import HeldOutDetector, PlateauDetector, rise_p, slope

LIMITS = DetectionLimits()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_the_chance_of_a_trend_is_the_share_of_orders_with_as_many_rising_pairs(values: list[int]) -> None:
    def score(order: tuple[int, ...]) -> int:
        return sum((later > earlier) - (later < earlier) for earlier, later in combinations(order, 2))

    orders = list(permutations(range(len(values))))
    measured = score(tuple(values))
    by_counting = sum(score(order) >= measured for order in orders) / len(orders)
    assert rise_p(values) == pytest.approx(by_counting)


def test_the_chance_of_a_long_rise_is_one_order_of_all() -> None:
    assert rise_p([1, 2, 3, 4, 5]) == pytest.approx(1 / 120)
    assert rise_p([5, 4, 3, 2, 1]) == 1.0
    assert rise_p([3]) == 1.0
    assert rise_p(list(range(40))) == pytest.approx(1 / math.factorial(40))


@given(st.floats(-3, 3), st.floats(-10, 10), st.integers(2, 12))
def test_the_slope_of_a_line_is_its_slope_and_an_outlier_hardly_moves_it(by: float, start: float, count: int) -> None:
    line = [start + by * place for place in range(count)]
    assert slope(line) == pytest.approx(by, abs=1e-9)
    if count > 6:
        assert slope([*line[:3], 1e6, *line[4:]]) == pytest.approx(by, abs=1e-6)


def evaluated(losses: list[float]) -> list[tuple[Alarm, ...]]:
    detector = HeldOutDetector(LIMITS)
    return [detector.evaluated(10 * number, loss) for number, loss in enumerate(losses, start=1)]


def test_a_loss_that_rises_from_its_best_alarms_when_the_rise_is_sure() -> None:
    falls, rises = [3.0, 2.5, 2.2, 2.0], [2.03, 2.05, 2.08, 2.1, 2.13, 2.15]
    found = evaluated([*falls, *rises])
    first = next(index for index, alarms in enumerate(found) if alarms)
    assert first == len(falls) + 4  # five losses in order are one of 120 orders
    (alarm,) = found[first]
    assert (alarm.kind, alarm.baseline, alarm.figure) == ("diverging", 2.0, 2.13)
    assert not alarm.is_warning


def test_a_loss_far_above_its_best_alarms_at_once() -> None:
    assert [len(alarms) for alarms in evaluated([2.0, 1.9, 2.5])] == [0, 0, 1]


@given(st.floats(1e-3, 1e3), st.lists(st.floats(0.0, 0.019), max_size=30))
def test_losses_within_the_allowed_rise_never_alarm(best: float, rises: list[float]) -> None:
    assert not any(evaluated([best, *(best * (1 + rise) for rise in rises)]))


@given(st.lists(st.floats(0.01, 100), unique=True, max_size=30))
def test_a_loss_that_falls_never_alarms(losses: list[float]) -> None:
    assert not any(evaluated(sorted(losses, reverse=True)))


def test_scatter_without_a_trend_seldom_alarms() -> None:
    draw = random.Random(3)
    alarms = [any(evaluated([2.0 * math.exp(draw.gauss(0, 0.02)) for _ in range(12)])) for _ in range(400)]
    assert sum(alarms) / len(alarms) < 0.05


def test_a_held_out_loss_that_is_no_number_alarms_and_is_no_best() -> None:
    found = evaluated([math.nan, 2.0, math.inf, 1.9])
    assert [[alarm.kind for alarm in alarms] for alarms in found] == [["nan"], [], ["infinite"], []]


def test_a_training_that_went_back_keeps_its_best_and_forgets_what_followed() -> None:
    detector = HeldOutDetector(LIMITS)
    for step, loss in [(10, 2.0), (20, 1.8), (30, 1.9), (40, 1.95), (50, 2.0)]:
        assert detector.evaluated(step, loss) == ()
    detector.back_to(20)
    for step, loss in [(30, 1.85), (40, 1.86), (50, 1.87), (60, 1.88)]:
        assert detector.evaluated(step, loss) == ()
    assert detector.evaluated(70, 1.89)[0].baseline == 1.8
    detector.back_to(10)
    assert detector.evaluated(20, 2.2) == ()


def plateaus(losses: list[float]) -> list[int]:
    detector = PlateauDetector(LIMITS)
    found = [detector.see(step, loss) for step, loss in enumerate(losses, start=1)]
    return [alarm.step for alarm in found if alarm is not None]


def noisy(count: int, fall: float, start: float = 2.0, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [start * math.exp(draw.gauss(0, 0.1) - fall * step) for step in range(count)]


def test_a_loss_that_falls_no_more_is_told_once_and_again_after_progress() -> None:
    flat = noisy(600, fall=0.0)
    assert plateaus(flat)[0] <= 300
    assert len(plateaus(flat)) == 1
    falling = noisy(600, fall=0.002, start=flat[-1])
    again = plateaus([*flat, *falling, *noisy(600, fall=0.0, start=falling[-1], seed=2)])
    assert len(again) == 2
    assert again[1] > 1200


def test_a_loss_that_falls_slowly_and_surely_is_no_plateau() -> None:
    assert plateaus(noisy(1000, fall=0.001)) == []
    assert plateaus([2.0 * math.exp(-0.0001 * step) for step in range(1000)]) == []
