"""The step detector beside the published rules: steps late and false alarms, on recorded and on generated curves."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from core.contract import Limit, judge
from core.train.limits import DetectionLimits
from core.train.trend import HeldOutDetector
from tests.benchmarks.curves import Curve, recorded, synthetic_clean, synthetic_faulty
from tests.benchmarks.detection_score import Ours, Rule, Score, score
from tests.benchmarks.published_rules import PUBLISHED

Record = Callable[[str, object], None]

FEW_ROWS = "LoRA, few rows"
SETS: dict[str, Callable[[], list[Curve]]] = {
    "recorded": recorded,
    "generated": lambda: [*synthetic_clean(), *synthetic_faulty()],
}


class CurrentStepInWindow:
    """The textbook mistake, mean and deviation of a window that the step itself is in.

    Of n numbers none lies further than (n - 1) / sqrt(n) deviations above their mean: here 5.5, however high the step.
    """

    def __init__(self, sigmas: float = 6.0) -> None:
        self._sigmas = sigmas
        self._windows: tuple[deque[float], ...] = (deque(maxlen=32), deque(maxlen=32))

    def step(self, *values: float) -> bool:
        high = [self._is_high(window, value) for window, value in zip(self._windows, values, strict=True)]
        return any(high)

    def _is_high(self, window: deque[float], value: float) -> bool:
        if not math.isfinite(value):
            return True
        window.append(value)
        if len(window) < 16:
            return False
        return bool(value - np.mean(window) > self._sigmas * np.std(window))


def no_worse(ours: Score, others: list[Score]) -> bool:
    """Say whether a score is as good as the best of others in delay and as the best of others in false alarms."""
    limits = (
        Limit(metric="delay_steps", op="<=", value=min(other.delay_steps for other in others)),
        Limit(metric="false_alarms_per_1000", op="<=", value=min(other.false_alarms_per_1000 for other in others)),
    )
    metrics = {"delay_steps": ours.delay_steps, "false_alarms_per_1000": ours.false_alarms_per_1000}
    return judge(limits, metrics).passed


@cache
def published(which: str) -> dict[str, Score]:
    return {name: score(rule, SETS[which]()) for name, rule in PUBLISHED.items()}


@pytest.mark.parametrize("which", ["recorded", pytest.param("generated", marks=pytest.mark.full)])
def test_faults_are_found_as_soon_and_as_surely_as_by_the_best_published_rule(which: str, record_property: Record) -> None:
    ours = score(lambda _: Ours(), SETS[which]())
    for name, one in {"edgekiln": ours, **published(which)}.items():
        record_property(f"{which} curves: {name}", one.told())
    assert ours.found == ours.faults or which == "generated"  # a single step among wide noise may be noise
    assert ours.found >= max(other.found for other in published(which).values())
    assert no_worse(ours, list(published(which).values()))


BROKEN: dict[str, Callable[[int], Rule]] = {
    "the step itself is in the window": lambda _: CurrentStepInWindow(),
    "limits half as high": lambda _: Ours(DetectionLimits(spike_sigmas=6.0, run_sigmas=5.25)),
    "a window of eight steps": lambda _: Ours(DetectionLimits(window_steps=8, min_steps=8)),
}


@pytest.mark.parametrize("way", BROKEN)
def test_a_detector_broken_on_purpose_is_worse(way: str, record_property: Record) -> None:
    broken = score(BROKEN[way], recorded())
    record_property(f"recorded curves, broken on purpose: {way}", broken.told())
    assert not no_worse(broken, list(published("recorded").values()))


def test_a_held_out_loss_that_turns_is_told_soon_after_its_best(record_property: Record) -> None:
    curves = [curve for curve in recorded() if curve.fault is None]
    told = {}
    for curve in curves:
        detector = HeldOutDetector(DetectionLimits())
        alarms = [step for step, loss in curve.held_out if detector.evaluated(step, loss)]
        best = min(curve.held_out, key=lambda pair: pair[1])[0]
        told[curve.name] = (best, alarms[0] if alarms else None)
    turning = {name: pair for name, pair in told.items() if name.startswith(FEW_ROWS)}
    for name, (best, alarm) in turning.items():
        record_property(f"held-out loss of {name}: best at, told at step", f"{best}, {alarm}")
    assert all(alarm is not None and alarm > best for best, alarm in turning.values())
    assert [name for name, (_, alarm) in told.items() if alarm is not None and name not in turning] == []
