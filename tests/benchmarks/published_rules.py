"""The rules by which other trainers find a loss spike, as their code at a named version states them, with its defaults.

Each is told one step at a time and says whether it alarms. Written anew from the cited files; what the files leave to the
user is set as their documentation advises.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np


class Rule(Protocol):
    def step(self, loss: float, grad_norm: float, /) -> bool: ...


class LlmFoundry:
    """llm-foundry 0.22.0, callbacks/kill_loss_spike_callback.py: five losses in a row of twice the mean of a window.

    Window 100 (5 % of the steps, at least 100); or half of the window above a cap, the highest loss of the first window and
    at most 10, from two windows on. NaN compares false there; Composer's NaNMonitor is assumed to stand beside it.
    """

    def __init__(self, steps: int) -> None:
        self._size = max(100, round(0.05 * steps))
        self._window: deque[float] = deque(maxlen=self._size)
        self._outliers = 0
        self._cap = math.inf
        self._seen = 0

    def step(self, loss: float, _: float) -> bool:
        if math.isnan(loss):
            return True
        self._seen += 1
        alarm = False
        if len(self._window) == self._size:
            if self._cap == math.inf:
                self._cap = min(max(self._window), 10.0)
            self._outliers = self._outliers + 1 if loss >= 2 * statistics.fmean(self._window) else 0
            high = sum(value > self._cap for value in self._window) >= self._size / 2
            alarm = self._outliers > 4 or (self._seen >= 2 * self._size and high)
        self._window.append(loss)
        return alarm


class OlmoCore:
    """OLMo-core 3.0.0, optim/skip_step_optimizer.py: loss or gradient norm 6 standard deviations above the mean of 128 steps.

    The step itself is not in the window; active after 64 steps; a comparison with NaN fails, which skips the step.
    """

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=129)
        self._norms: deque[float] = deque(maxlen=129)

    def step(self, loss: float, grad_norm: float) -> bool:
        self._losses.append(loss)
        self._norms.append(grad_norm)
        if len(self._losses) < 64:
            return False
        return not (self._is_usual(self._losses) and self._is_usual(self._norms))

    @staticmethod
    def _is_usual(values: deque[float]) -> bool:
        earlier = np.array(values)[:-1]
        with np.errstate(invalid="ignore"):
            return bool(values[-1] - earlier.mean() <= 6 * earlier.std(ddof=1))


class Lightning:
    """Lightning 2.6.6, fabric/utilities/spike.py: a loss that differs from the mean of 10 by twice that mean and is no better.

    warmup 1, rtol 2.0, atol none, finite_only; neither the step nor one that alarmed enters the mean.
    """

    def __init__(self) -> None:
        self._window: deque[float] = deque(maxlen=10)
        self._last = 0.0

    def step(self, loss: float, _: float) -> bool:
        if self._window and self._is_spike(loss):
            return True
        self._window.append(loss)
        self._last = loss
        return False

    def _is_spike(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        mean = statistics.fmean(self._window)
        return loss > self._last and abs(loss - mean) >= abs(2.0 * mean)


class Axolotl:
    """axolotl 0.19.0, utils/callbacks/__init__.py: three losses in a row above a threshold, which has no default.

    Its schema advises twice the loss at the start of training, which is taken here; a comparison with NaN is false.
    """

    def __init__(self) -> None:
        self._threshold: float | None = None
        self._violations = 0

    def step(self, loss: float, _: float) -> bool:
        if self._threshold is None:
            self._threshold = 2 * loss
        self._violations = self._violations + 1 if loss > self._threshold else 0
        return self._violations >= 3


class Megatron:
    """Megatron-core 0.16.1, core/rerun_state_machine.py and distributed/param_and_grad_buffer.py: ten times the largest of 100.

    For the loss and for the gradient norm, with both optional checks on; the first 100 samples only teach; NaN and infinity
    are checked apart, in the loss and in the gradients.
    """

    def __init__(self) -> None:
        self._largest = {"loss": 0.0, "grads": 0.0}
        self._samples = {"loss": 0, "grads": 0}

    def step(self, loss: float, grad_norm: float) -> bool:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            return True
        return any([self._is_unexpectedly_large("loss", loss), self._is_unexpectedly_large("grads", grad_norm)])

    def _is_unexpectedly_large(self, context: str, value: float) -> bool:
        if self._samples[context] < 100:
            self._samples[context] += 1
            self._largest[context] = max(self._largest[context], value)
            return False
        return value >= 10 * self._largest[context]


# by the number of steps the training will take
PUBLISHED: dict[str, Callable[[int], Rule]] = {
    "llm-foundry 0.22.0": LlmFoundry,
    "OLMo-core 3.0.0": lambda _: OlmoCore(),
    "Lightning 2.6.6": lambda _: Lightning(),
    "axolotl 0.19.0": lambda _: Axolotl(),
    "Megatron-core 0.16.1": lambda _: Megatron(),
}
