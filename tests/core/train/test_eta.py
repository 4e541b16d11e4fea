"""How long a training still takes: ranges that hold as often as they say, learned from its own steps and earlier ones."""

from __future__ import annotations

import random
from statistics import median

import pytest

from core import config
from core.train.eta import Pace, earlier_paces, remaining, whole
from core.train.metrics import speed_key
from core.train.recorded import Point
from tests.core.train.sample_trainings import trained


def walls(seed: int, steps: int) -> list[float]:
    """Step times that hang together, with now and then a slow one and a save every 25 steps."""
    drawn, drift, made = random.Random(seed), 0.0, []
    for step in range(steps):
        drift = 0.8 * drift + drawn.gauss(0, 0.05)
        made.append(max(0.05, 1 + drift + drawn.expovariate(10)) + (2.0 if step % 25 == 24 else 0.0))
    return made


def points(times: list[float]) -> list[Point]:
    return [Point(step, 1.0, None, seconds if step > 1 else None, seconds) for step, seconds in enumerate(times, 1)]


@pytest.mark.parametrize(("share", "least_often", "widest"), [(0.4, 0.9, 0.4), (0.6, 0.9, 0.35), (0.9, 0.9, 0.4)])
def test_what_remains_lies_within_the_range_as_often_as_it_says(share, least_often, widest):
    held, widths = [], []
    for seed in range(150):
        times = walls(seed, (80, 200, 600)[seed % 3])
        seen = int(share * len(times))
        span, true = remaining(points(times[:seen]), len(times)), sum(times[seen:])
        held.append(span.low_s <= true <= span.high_s)
        widths.append((span.high_s - span.low_s) / true)
    assert sum(held) / len(held) >= least_often
    assert median(widths) <= widest


def test_nothing_is_told_before_anything_is_known():
    assert remaining([], 100) is None
    assert remaining(points([1.0, 1.0]), 100) is None


def test_the_first_steps_tell_a_wide_range_and_the_last_none():
    early = remaining(points(walls(1, 6)), 300)
    assert early.learned_from == "its first steps"
    assert early.high_s > 1.1 * early.low_s > 0
    assert remaining(points(walls(1, 300)), 300).high_s == 0


EARLIER = Pace(artifact_id="0" * 12, steps=40, rows_per_step=2, blocks_s=(1.0, 1.1, 0.9, 1.0, 1.05))


def test_an_earlier_training_tells_the_range_before_the_first_step():
    span = remaining([], 100, [EARLIER])
    assert span.learned_from == "1 earlier training"
    assert 80 < span.low_s < 101 < span.high_s < 125


def test_a_machine_that_is_slower_than_then_widens_what_earlier_trainings_tell():
    usual, slower = (remaining(points([seconds] * 5), 100, [EARLIER]) for seconds in (1.0, 2.0))
    assert slower.high_s > 1.8 * usual.high_s
    assert slower.low_s <= usual.low_s


def test_a_whole_training_is_reckoned_from_rows_and_epochs():
    assert whole([], 100, 2, 1.0) is None
    span = whole([EARLIER], 101, 2, 2.0)
    assert span.low_s < 102 < span.high_s


def test_only_trainings_of_the_same_speed_on_the_same_machine_are_learned_from(workspace):
    same = trained(workspace, host="here", learning_rate=0.01)
    trained(workspace, host="elsewhere")
    trained(workspace, host="here", max_length=64)
    trained(workspace, host="here", steps=5, seed=4)  # too short to tell anything
    (workspace.root / "artifacts" / "train" / "broken").mkdir()
    (workspace.root / "artifacts" / "train" / "broken" / "metrics.jsonl").write_bytes(b"\x00")
    (pace,) = earlier_paces(workspace, speed_key(config.load("demo").train), "a CPU", "here")
    assert pace.artifact_id == same.artifact_id
    assert pace.rows_per_step == 8  # 160 rows twice in 40 steps
    assert len(pace.blocks_s) == 4
    assert earlier_paces(workspace, "another", "a CPU", "here") == ()
