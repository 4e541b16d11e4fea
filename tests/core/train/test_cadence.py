"""When checkpoints are due, on a clock the test moves."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.train.cadence import INTERRUPTION_S, Cadence, interval_s


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def train(cadence: Cadence, clock: Clock, step_s: float, save_s: float, steps: int) -> list[tuple[float, float]]:
    """Return when each checkpoint began and ended."""
    saves = []
    for step in range(1, steps + 1):
        clock.now += step_s
        if cadence.due(step):
            began = clock.now
            with cadence.saving():
                clock.now += save_s
            saves.append((began, clock.now))
    return saves


def mean_loss_s(saves: list[tuple[float, float]]) -> float:
    """Return the work lost on average when an interruption falls anywhere between the first and the last checkpoint."""
    gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(saves)]
    return sum(gap * gap / 2 for gap in gaps) / sum(gaps)


@pytest.mark.parametrize(("step_s", "save_s", "max_loss_s"), [(1.0, 2.0, 20.0), (3.0, 10.0, 15.0), (0.2, 0.01, 1.0)])
def test_an_interruption_costs_on_average_what_was_asked_and_no_more(step_s, save_s, max_loss_s):
    clock = Clock()
    loss_s = mean_loss_s(train(Cadence(None, max_loss_s, clock), clock, step_s, save_s, 600))
    assert max_loss_s - step_s / 2 - 1e-6 <= loss_s <= max_loss_s + 1e-6


def test_where_saving_is_cheap_checkpoints_come_more_often_than_the_bound_asks():
    clock = Clock()
    loss_s = mean_loss_s(train(Cadence(None, 120.0, clock), clock, 1.0, 0.5, 600))
    assert loss_s == pytest.approx(math.sqrt(2 * 0.5 * INTERRUPTION_S) / 2, abs=1)


def test_a_fixed_number_of_steps_takes_the_place_of_measuring():
    clock = Clock()
    cadence = Cadence(4, 1e-6, clock)
    assert [step for step in range(1, 13) if cadence.due(step)] == [4, 8, 12]


def test_the_first_checkpoint_comes_after_the_first_step_whatever_a_step_costs():
    clock = Clock()
    saves = train(Cadence(None, 120.0, clock), clock, 0.001, 0.001, 5)
    assert [began for began, _ in saves] == [100.001]


def test_a_save_too_slow_for_the_bound_is_made_after_every_step():
    clock = Clock()
    assert len(train(Cadence(None, 1.0, clock), clock, 1.0, 30.0, 20)) == 20


@given(st.floats(0.001, 1000), st.floats(0.01, 10_000))
def test_the_interval_is_the_smaller_of_the_bound_and_youngs_optimum(save_s, max_loss_s):
    interval = interval_s(save_s, max_loss_s)
    assert interval >= 0
    assert (interval + save_s) / 2 <= max(max_loss_s, save_s / 2) * (1 + 1e-12)

    def waste(work_s: float) -> float:
        return save_s / work_s + work_s / (2 * INTERRUPTION_S)

    best = math.sqrt(2 * save_s * INTERRUPTION_S)
    if interval == best:
        assert waste(best) <= min(waste(best * 1.1), waste(best * 0.9))
    else:
        assert interval == max(0.0, 2 * max_loss_s - save_s) < best
