"""Scores a rule on curves: how many faults it finds, how many steps late, and how often it alarms where nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from core.train.detection import StepDetector
from core.train.limits import DetectionLimits
from tests.benchmarks.curves import Curve
from tests.benchmarks.published_rules import Rule

EARLY_STEPS = 64  # two of the published rules judge nothing before that


@dataclass(frozen=True)
class Score:
    """`delays` are pairs of the step a fault begins at and the steps until it is found.

    A fault that is not found counts with all the steps the curve has after it.
    """

    found: int
    delays: tuple[tuple[int, int], ...]
    false_alarms: int
    clean_steps: int

    @property
    def faults(self) -> int:
        return len(self.delays)

    @property
    def delay_steps(self) -> float:
        return fmean(delay for _, delay in self.delays)

    @property
    def false_alarms_per_1000(self) -> float:
        return 1000 * self.false_alarms / self.clean_steps

    def told(self) -> str:
        late = fmean(delay for begins, delay in self.delays if begins >= EARLY_STEPS)
        return (
            f"found {self.found} of {self.faults}, {self.delay_steps:.2f} steps late"
            f" ({late:.2f} for faults from step {EARLY_STEPS} on);"
            f" {self.false_alarms_per_1000:.3f} false alarms per 1,000 of {self.clean_steps:,} clean steps"
        )


class Ours:
    """Edgekiln's detector as a rule: an alarm is what is acted on, a warning is not."""

    def __init__(self, limits: DetectionLimits | None = None) -> None:
        self._detector = StepDetector(limits or DetectionLimits())
        self._step = 0

    def step(self, loss: float, grad_norm: float) -> bool:
        self._step += 1
        return any(not alarm.is_warning for alarm in self._detector.step(self._step, loss, grad_norm))


def score(rule: Callable[[int], Rule], curves: Iterable[Curve]) -> Score:
    """Run a rule over curves, a fresh one for each.

    What it says before a fault is not counted: those steps are a clean curve's, and counted there.
    """
    delays: list[tuple[int, int]] = []
    found = false = clean = 0
    for curve in curves:
        fresh = rule(len(curve.loss))
        alarms = [fresh.step(*values) for values in zip(curve.loss, curve.grad_norm, strict=True)]
        if curve.fault_step is None:
            false += sum(alarms)
            clean += len(alarms)
            continue
        after = alarms[curve.fault_step :]
        found += any(after)
        delays.append((curve.fault_step, after.index(True) if any(after) else len(after)))
    return Score(found, tuple(delays), false, clean)
