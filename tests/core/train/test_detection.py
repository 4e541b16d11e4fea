"""Detectors of a step gone wrong: what alarms, what never does, and that nothing but the steps before decides."""

from __future__ import annotations

import math
import random
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.train.alarm import Alarm
from core.train.detection import StepDetector, StuckDetector
from core.train.limits import DetectionLimits

LIMITS = DetectionLimits()
RATIOS = st.lists(st.floats(0.7, 1.4), min_size=LIMITS.min_steps, max_size=150)
SCALES = st.floats(1e-6, 1e6)
STEPS_BEFORE = 40


def judged(losses: list[float], norms: list[float | None] | None = None) -> list[tuple[Alarm, ...]]:
    detector = StepDetector(LIMITS)
    return [
        detector.step(step, loss, norm)
        for step, (loss, norm) in enumerate(zip(losses, norms or [1.0] * len(losses), strict=True), start=1)
    ]


def acted_on(found: list[tuple[Alarm, ...]]) -> list[Alarm]:
    return [alarm for alarms in found for alarm in alarms if not alarm.is_warning]


def noisy(count: int, width: float = 0.1, seed: int = 1) -> list[float]:
    draw = random.Random(seed)
    return [2.0 * math.exp(draw.gauss(0, width)) for _ in range(count)]


@given(SCALES, SCALES, st.integers(1, 300))
def test_a_constant_curve_never_alarms(loss: float, norm: float, count: int) -> None:
    assert acted_on(judged([loss] * count, [norm] * count)) == []


@given(st.floats(1e-3, 1e3), st.floats(0.0, 10.0), st.booleans())
def test_a_steady_drift_is_no_spike(start: float, slope: float, both: bool) -> None:
    losses = [(start + slope * step) ** 2 for step in range(300)]
    assert acted_on(judged(losses, losses if both else None)) == []


@given(RATIOS, SCALES)
def test_the_scale_of_a_curve_changes_no_alarm(ratios: list[float], scale: float) -> None:
    spiky = [*ratios, 9.0, *ratios]

    def kinds(losses: list[float]) -> list[list[tuple[str, str]]]:
        return [[(alarm.kind, alarm.metric) for alarm in alarms] for alarms in judged(losses, losses)]

    assert kinds(spiky) == kinds([scale * ratio for ratio in spiky])


@given(RATIOS, st.floats(1.0, 1e6), SCALES)
def test_a_single_huge_step_always_alarms_after_the_first_steps(ratios: list[float], more: float, scale: float) -> None:
    widest = math.sqrt(1.4) - math.sqrt(0.7)  # no two roots are further apart, so no deviation is larger than that
    huge = (math.sqrt(1.4) + (LIMITS.spike_sigmas + 1) * widest * 1.4826 * 1.25) ** 2 * more
    losses = [scale * ratio for ratio in ratios]

    assert [alarm.kind for alarm in judged([*losses, scale * huge])[-1]] == ["spike"]
    found = judged([2.0] * (len(losses) + 1), [*losses, scale * huge])[-1]
    assert [(alarm.kind, alarm.metric) for alarm in found] == [("spike", "grad_norm")]


@given(RATIOS, st.floats(1.0, 100.0))
def test_a_fall_is_never_an_alarm(ratios: list[float], less: float) -> None:
    assume(len(ratios) < LIMITS.plateau_steps)
    calm = [1.0] * len(ratios)
    assert judged([*calm, 1.0 / less])[-1] == ()


@given(RATIOS, RATIOS)
def test_what_comes_after_a_step_does_not_change_what_was_said_of_it(before: list[float], after: list[float]) -> None:
    curve = [*before, 30.0, *after]
    assert judged(curve)[: len(before) + 1] == judged(curve[: len(before) + 1])


@given(RATIOS, st.floats(0.01, 100.0))
def test_the_step_itself_is_not_in_its_baseline(ratios: list[float], value: float) -> None:
    (small, large) = (judged([*ratios, last])[-1] for last in (1e9 * value, 1e12 * value))
    assert small[0].baseline == large[0].baseline
    assert small[0].limit == large[0].limit


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "nan"), (math.inf, "infinite"), (-math.inf, "infinite")])
def test_what_is_no_number_alarms_at_the_very_first_step(value: float, kind: str) -> None:
    (loss,) = StepDetector(LIMITS).step(1, value, 1.0)
    (norm,) = StepDetector(LIMITS).step(1, 2.0, value)
    assert (loss.kind, loss.metric, loss.figure) == (kind, "loss", None)
    assert (norm.kind, norm.metric) == (kind, "grad_norm")
    assert Alarm.model_validate_json(loss.model_dump_json()) == loss


def test_what_is_no_number_leaves_the_baseline_as_it_was() -> None:
    losses = noisy(STEPS_BEFORE)
    broken = judged([*losses, math.nan, math.inf, 0.0, 40.0])
    whole = judged([*losses, 40.0])
    assert [alarm.kind for alarms in broken[-4:] for alarm in alarms] == ["nan", "infinite", "zero", "spike"]
    assert broken[-1][0].baseline == whole[-1][0].baseline


def test_a_spike_tells_its_figure_its_limit_and_its_baseline() -> None:
    (alarm,) = judged([*noisy(STEPS_BEFORE), 40.0])[-1]
    assert alarm.baseline == pytest.approx(2.0, rel=0.1)
    assert alarm.limit is not None
    assert 5 < alarm.limit < 15
    assert alarm.text.startswith("step 41: loss is a spike: measured 40, limit ")
    assert judged([*noisy(STEPS_BEFORE), alarm.limit * 1.001])[-1] == (
        alarm.model_copy(update={"figure": alarm.limit * 1.001}),
    )
    assert judged([*noisy(STEPS_BEFORE), alarm.limit * 0.999])[-1] == ()


@pytest.mark.parametrize(("sigmas", "steps"), [(10.0, 2), (7.0, 4), (5.0, 8), (4.0, None)])
def test_a_run_of_high_steps_alarms_where_none_of_them_is_a_spike(sigmas: float, steps: int | None) -> None:
    calm = [2.0] * STEPS_BEFORE
    deviation = math.sqrt(2.0) * LIMITS.min_deviation / 2 * (1 + 4 / STEPS_BEFORE)
    raised = (math.sqrt(2.0) + sigmas * deviation) ** 2
    found = acted_on(judged([*calm, *[raised] * 8]))
    assert [(alarm.kind, alarm.step - STEPS_BEFORE) for alarm in found[:1]] == ([("run", steps)] if steps else [])
    for alarm in found[:1]:
        assert alarm.figure == raised > (alarm.limit or 0) > (alarm.baseline or 0)
    assert acted_on(judged([*calm, raised, 2.0, 2.0, 2.0])) == []


def test_a_step_high_in_both_numbers_is_a_spike_where_neither_is_alone() -> None:
    calm = noisy(STEPS_BEFORE)
    (spike,) = judged([*calm, 40.0])[-1]
    high = (math.sqrt(spike.baseline or 0) + 0.6 * (math.sqrt(spike.limit or 0) - math.sqrt(spike.baseline or 0))) ** 2
    assert judged([*calm, high])[-1] == ()
    (alarm,) = judged([*calm, high], [*calm, high])[-1]
    assert alarm.kind == "spike"
    assert (alarm.limit or 0) < high


def test_a_number_far_below_does_not_excuse_one_far_above() -> None:
    (alarm,) = judged([*noisy(STEPS_BEFORE), 40.0], [*noisy(STEPS_BEFORE), 1e-9])[-1]
    assert (alarm.kind, alarm.metric) == ("spike", "loss")


def test_a_level_that_stays_becomes_usual() -> None:
    found = judged([*noisy(60), *(3 * loss for loss in noisy(250, seed=2))])
    assert acted_on(found[:60]) == []
    assert acted_on(found[60:64]) != []
    assert acted_on(found[-100:]) == []


def test_a_training_that_went_back_is_judged_as_if_the_steps_had_not_been() -> None:
    detector, fresh = StepDetector(LIMITS), StepDetector(LIMITS)
    losses = noisy(STEPS_BEFORE)
    for step, loss in enumerate([*losses, 50.0, 60.0, 70.0], start=1):
        detector.step(step, loss, loss)
    detector.back_to(STEPS_BEFORE)
    for step, loss in enumerate(losses, start=1):
        fresh.step(step, loss, loss)
    for step, loss in enumerate([2.0, 6.0, 5.0, 5.0, 80.0], start=STEPS_BEFORE + 1):
        assert detector.step(step, loss, loss) == fresh.step(step, loss, loss)


def test_gradients_that_vanish_are_a_warning_told_once() -> None:
    norms = [*([0.5] * 30), *([1e-5] * 20), 0.0, 0.0]
    found = [alarm for alarms in judged([2.0] * len(norms), norms) for alarm in alarms]
    assert [(alarm.kind, alarm.step, alarm.is_warning) for alarm in found] == [
        ("vanishing", 30 + LIMITS.vanishing_steps, True)
    ]
    assert found[0].baseline == 0.5
    assert acted_on(judged([2.0] * 40, [0.0] * 40)) == []


def test_a_step_without_a_gradient_norm_is_judged_by_its_loss() -> None:
    found = judged([*noisy(STEPS_BEFORE), 40.0], [None] * (STEPS_BEFORE + 1))
    assert [(alarm.kind, alarm.metric) for alarm in found[-1]] == [("spike", "loss")]


@given(st.lists(st.floats() | st.just(0.0) | st.floats(min_value=sys.float_info.max / 4), max_size=200))
def test_no_float_whatever_breaks_a_detector(values: list[float]) -> None:
    for alarms in judged(values, [*reversed(values)]):
        for alarm in alarms:
            assert alarm.text


def test_memory_is_bounded_by_the_window() -> None:
    def held(count: int) -> int:
        detector = StepDetector(LIMITS)
        for step, loss in enumerate(noisy(count)):
            detector.step(step, loss, loss)
        kept = (detector._loss._roots, detector._norm._roots, detector._latest, detector._plateau._block)
        return sum(map(len, kept)) + len(detector._plateau._medians)

    assert held(1000) == held(10_000) <= 2 * LIMITS.window_steps + LIMITS.plateau_steps


def test_a_worker_is_stuck_after_a_multiple_of_its_own_step_time() -> None:
    limits = DetectionLimits(stuck_multiple=10, stuck_min_s=5, first_step_s=100)
    detector = StuckDetector(limits, now_s=1000.0)
    assert detector.check(1100.0) is None
    first = detector.check(1100.5)
    assert first is not None
    assert (first.kind, first.limit, first.baseline) == ("stuck", 100, None)
    for step in range(1, 6):
        detector.stepped(step, 1000.0 + 2 * step)
    assert detector.check(1030.0) is None
    stuck = detector.check(1030.1)
    assert stuck is not None
    assert (stuck.step, stuck.limit, stuck.baseline, round(stuck.figure or 0, 1)) == (5, 20, 2, 20.1)
    detector.stepped(6, 1031.0)
    assert detector.check(1032.0) is None


def test_an_evaluation_is_a_sign_of_life_and_no_step_time() -> None:
    detector = StuckDetector(DetectionLimits(stuck_multiple=10, stuck_min_s=5), now_s=0.0)
    for step in range(1, 6):
        detector.stepped(step, float(step))
    for now in range(6, 600, 5):
        assert detector.check(float(now)) is None
        detector.alive(float(now))
    detector.stepped(6, 597.0)
    assert detector.check(607.1) is not None


def test_a_fast_worker_may_be_silent_for_the_least_time() -> None:
    detector = StuckDetector(DetectionLimits(stuck_min_s=60), now_s=0.0)
    for step in range(1, 100):
        detector.stepped(step, step / 1000)
    assert detector.check(59.0) is None
    assert detector.check(61.0) is not None


def test_a_save_is_judged_by_the_saves_before_it_and_the_first_like_a_first_step() -> None:
    detector = StuckDetector(DetectionLimits(stuck_multiple=10, stuck_min_s=60, first_step_s=1800), now_s=0.0)
    for step in range(1, 6):
        detector.stepped(step, float(step))
    detector.saving(5.0)
    assert detector.check(1805.0) is None
    assert detector.check(1806.0) is not None
    detector.saved(75.0)
    detector.stepped(6, 76.0)
    assert detector.check(137.0) is not None
    detector.saving(77.0)
    assert detector.check(777.0) is None
    stuck = detector.check(778.0)
    assert stuck is not None
    assert (stuck.limit, stuck.baseline) == (700, 70)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"window_steps": 8}, "min_steps=16 > window_steps=8"),
        ({"window_steps": 64, "stuck_after_steps": 65}, "stuck_after_steps=65 > window_steps=64"),
        ({"held_out_window": 5, "trend_p": 0.008}, r"trend_p=0\.008 < 0\.0083"),
        ({"min_rise": 0.3}, r"min_rise=0\.3 > max_rise=0\.2"),
    ],
)
def test_limits_that_no_training_could_ever_pass_are_refused(limits: dict[str, float], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        DetectionLimits.model_validate(limits)
    assert DetectionLimits(window_steps=16, held_out_window=5, trend_p=0.0084)
