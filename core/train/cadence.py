"""When a checkpoint is due: after a fixed number of steps, or as often as the measured step and save times ask for."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

INTERRUPTION_S = 3600.0  # the time between interruptions Young's optimum is taken for: one an hour, a bad day on spot
_REMEMBERED_STEPS = 32


def interval_s(save_s: float, max_loss_s: float) -> float:
    """Return the time to work between two checkpoints, in seconds.

    An interruption falls anywhere into a cycle of work and save and loses what was done since the last checkpoint, on
    average (work + save) / 2; so the work is at most 2 * max_loss - save. Below that bound sqrt(2 * save * time between
    interruptions) wastes least (J. W. Young, A first order approximation to the optimum checkpoint interval, CACM 17(9),
    1974).
    """
    return max(0.0, min(2 * max_loss_s - save_s, math.sqrt(2 * save_s * INTERRUPTION_S)))


class Cadence:
    """Says after each step whether a checkpoint is due.

    With `every_steps` it is at its multiples. Else the first is due after the first step, so that a place that cannot take
    one is found out at once; then whenever one more step would pass the interval.
    """

    def __init__(self, every_steps: int | None, max_loss_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._every_steps = every_steps
        self._max_loss_s = max_loss_s
        self._clock = clock
        self._step_s: deque[float] = deque(maxlen=_REMEMBERED_STEPS)
        self._save_s: float | None = None
        self._step_began = self._work_began = clock()

    def due(self, step: int) -> bool:
        """Note that a step ended and return whether a checkpoint is due now."""
        now = self._clock()
        self._step_s.append(now - self._step_began)
        self._step_began = now
        if self._every_steps is not None:
            return step % self._every_steps == 0
        if self._save_s is None:
            return True
        return now - self._work_began + median(self._step_s) > interval_s(self._save_s, self._max_loss_s)

    @property
    def save_s(self) -> float:
        """Seconds the newest save took, 0 before the first."""
        return self._save_s or 0.0

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure the save that is done in the block."""
        began = self._clock()
        yield
        self._step_began = self._work_began = self._clock()
        self._save_s = self._work_began - began
