"""What is wrong with a training, said at the step it is seen: no number, a spike, a run of high steps, silence.

Gradients that vanish are a warning. Slow changes are in trend.py. A detector never looks ahead, nor at the step it judges
for what is usual, and keeps a window of numbers.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

from core.train.alarm import Alarm, AlarmKind, Metric
from core.train.limits import DetectionLimits
from core.train.trend import PlateauDetector

_SIGMAS_PER_MAD = 1.4826  # of normal noise
_RUNS = (2, 4, 8)  # steps: a jump shows in the first, a climb in the last
LONGEST_RUN = max(_RUNS)
_LOW = -1.0  # a number far below what is usual does not make up for another far above
_FEW_STEPS = 4.0  # the deviation of n steps is itself unsure by about one over the root of n: few steps get more room


class StepDetector:
    """Sees each optimiser step once, in order, and says at once what is wrong with it.

    A step's loss is the mean over its micro-batches; the gradient norm is the one before clipping, None where there is none
    (fp16's scaler finds its scale by infinite ones and skips such a step itself). How far the two lie above what is usual,
    in robust deviations, is added up: a step that spoils a training shows in both, a hard batch seldom does. So are the
    steps of a run, against the root of their number, by which a sum of independent steps spreads.
    """

    def __init__(self, limits: DetectionLimits) -> None:
        self._limits = limits
        self._loss = _Baseline("loss", limits)
        self._norm = _Baseline("grad_norm", limits)
        self._latest: deque[_Step] = deque(maxlen=LONGEST_RUN)
        self._vanishing = _VanishingWatch(limits)
        self._plateau = PlateauDetector(limits)

    def step(self, step: int, loss: float, grad_norm: float | None) -> tuple[Alarm, ...]:
        """Judge a step by the steps before it."""
        found = [_broken("loss", step, loss), self._high(step, loss, grad_norm)]
        if _is_usable(loss):
            found.append(self._plateau.see(step, loss))
        if grad_norm is not None:
            found += [_broken("grad_norm", step, grad_norm), self._vanishing.see(step, grad_norm)]
        return tuple(alarm for alarm in found if alarm is not None)

    def loss_deviations(self, loss: float) -> float | None:
        """Return how far a loss lies above the steps before; it is no step's. None while they are too few to say."""
        return self._loss.deviations(loss)

    def back_to(self, step: int) -> None:
        """Forget what was seen after a step: the training was put back to it."""
        self._loss.back_to(step)
        self._norm.back_to(step)
        self._latest.clear()
        self._vanishing.forget_run()
        self._plateau.forget()

    def _high(self, step: int, loss: float, grad_norm: float | None) -> Alarm | None:
        told = [self._loss.judge(step, loss), None if grad_norm is None else self._norm.judge(step, grad_norm)]
        now = _Step(tuple(one for one in told if one is not None))
        alarm = self._spike(step, now) or self._run(step, now)
        if alarm is not None:
            self._latest.clear()  # one thing wrong is told once
        return alarm

    def _spike(self, step: int, now: _Step) -> Alarm | None:
        allowed = self._limits.spike_sigmas
        return _alarm("spike", step, now, allowed) if now.deviations > allowed else None

    def _run(self, step: int, now: _Step) -> Alarm | None:
        self._latest.append(now)
        most = self._limits.run_sigmas  # of one step: a run is not made by a single hard batch
        for count in _RUNS:
            run = list(self._latest)[-count:]
            total = sum(min(most, one.deviations) for one in run)
            if len(run) == count and total > most * math.sqrt(count):
                return _alarm("run", step, max(run, key=lambda one: one.deviations), most / math.sqrt(count))
        return None


def _is_usable(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _broken(metric: Metric, step: int, value: float) -> Alarm | None:
    if not math.isfinite(value):
        return Alarm(kind="nan" if math.isnan(value) else "infinite", metric=metric, step=step, figure=None)
    if value <= 0 and metric == "loss":  # no cross-entropy: every label was masked, or a filter hid what it was
        return Alarm(kind="zero", metric=metric, step=step, figure=value)
    return None


@dataclass(frozen=True)
class _Judged:
    """A number against its baseline; `middle` and `deviation` are of square roots."""

    metric: Metric
    value: float
    middle: float
    deviation: float

    @property
    def deviations(self) -> float:
        return (math.sqrt(self.value) - self.middle) / self.deviation


@dataclass(frozen=True)
class _Step:
    """What was judged of a step."""

    judged: tuple[_Judged, ...]

    @property
    def deviations(self) -> float:
        return sum(max(_LOW, one.deviations) for one in self.judged)


def _alarm(kind: AlarmKind, step: int, worst: _Step, sigmas: float) -> Alarm:
    """Tell of the number that lies furthest out; its limit is what it may be while the other is as it is."""
    *others, number = sorted(worst.judged, key=lambda one: one.deviations)
    of_other = min(sigmas / 2, _Step(tuple(others)).deviations)
    root = number.middle + (sigmas - of_other) * number.deviation
    limit = root * root if math.isfinite(root * root) else None
    usual = number.middle * number.middle
    return Alarm(kind=kind, metric=number.metric, step=step, figure=number.value, limit=limit, baseline=usual)


class _Baseline:
    """The median and the median absolute deviation of the square roots of the steps before, at most a window of them.

    Mean losses of a few tokens and gradient norms are skewed as gamma variables are; the square root evens their spread
    (of the powers tried on the recorded curves, 0.15 to 1, it parts faults from clean steps best) and a change of scale
    changes nothing. The least deviation, a share of the median, keeps a calm curve from making a spike of every ripple.
    """

    def __init__(self, metric: Metric, limits: DetectionLimits) -> None:
        self._metric: Metric = metric
        self._limits = limits
        self._roots: deque[tuple[int, float]] = deque(maxlen=limits.window_steps)

    def judge(self, step: int, value: float) -> _Judged | None:
        """Compare with the steps before, then take the step in; None while they are too few or for what is no number."""
        if not _is_usable(value):
            return None
        judged = self._compare(value) if len(self._roots) >= self._limits.min_steps else None
        self._roots.append((step, math.sqrt(value)))
        return judged

    def deviations(self, value: float) -> float | None:
        """Return how far a number lies above the steps before; None as `judge`."""
        if not _is_usable(value) or len(self._roots) < self._limits.min_steps:
            return None
        return self._compare(value).deviations

    def back_to(self, step: int) -> None:
        while self._roots and self._roots[-1][0] > step:
            self._roots.pop()

    def _compare(self, value: float) -> _Judged:
        roots = [root for _, root in self._roots]
        middle = statistics.median(roots)
        spread = _SIGMAS_PER_MAD * statistics.median(abs(root - middle) for root in roots)
        least = middle * self._limits.min_deviation / 2  # a root changes by half the share its square changes by
        deviation = max(spread, least) * (1 + _FEW_STEPS / len(roots))
        return _Judged(self._metric, value, middle, deviation)


class _VanishingWatch:
    """Gradient norms that fall far below the first ones and stay there; told once."""

    def __init__(self, limits: DetectionLimits) -> None:
        self._limits = limits
        self._first: list[float] = []
        self._run = 0

    def see(self, step: int, grad_norm: float) -> Alarm | None:
        if not math.isfinite(grad_norm):
            return None
        if len(self._first) < self._limits.min_steps:
            self._first.append(grad_norm)
            return None
        usual = statistics.median(self._first)
        limit = usual * self._limits.vanishing_share
        self._run = self._run + 1 if grad_norm <= limit else 0
        if self._run != self._limits.vanishing_steps:
            return None
        return Alarm(kind="vanishing", metric="grad_norm", step=step, figure=grad_norm, limit=limit, baseline=usual)

    def forget_run(self) -> None:
        self._run = 0


class StuckDetector:
    """Measures how long a worker is silent against its own step time; times are of one monotonic clock."""

    def __init__(self, limits: DetectionLimits, now_s: float) -> None:
        self._limits = limits
        self._heard_s = now_s
        self._step = 0
        self._times: deque[float] = deque(maxlen=limits.window_steps)
        self._is_saving = False
        self._longest_save_s: float | None = None

    def stepped(self, step: int, now_s: float) -> None:
        """Note that a step has ended."""
        self._times.append(max(0.0, now_s - self._heard_s))
        self._step = step
        self.alive(now_s)

    def alive(self, now_s: float) -> None:
        """Note any other sign of life, such as progress of an evaluation; its time is no step's."""
        self._heard_s, self._is_saving = now_s, False

    def saving(self, now_s: float) -> None:
        """Note that a checkpoint is being written, in silence: it is judged by the saves before, the first as a first step."""
        self._heard_s, self._is_saving = now_s, True

    def saved(self, now_s: float) -> None:
        """Note that the checkpoint is written."""
        self._longest_save_s = max(self._longest_save_s or 0.0, now_s - self._heard_s)
        self.alive(now_s)

    def _usual_s(self) -> float | None:
        if self._is_saving:
            return self._longest_save_s
        return statistics.median(self._times) if len(self._times) >= self._limits.stuck_after_steps else None

    def check(self, now_s: float) -> Alarm | None:
        """Say whether the worker is stuck now."""
        usual = self._usual_s()
        limit = self._limits.first_step_s
        if usual is not None:
            limit = max(self._limits.stuck_min_s, self._limits.stuck_multiple * usual)
        silence = now_s - self._heard_s
        if silence <= limit:
            return None
        return Alarm(kind="stuck", metric="silence_s", step=self._step, figure=silence, limit=limit, baseline=usual)
