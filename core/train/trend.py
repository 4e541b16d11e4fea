"""Slow changes of a training: a held-out loss that rises, a loss that falls no more. The tests are of ranks and exact.

The Mann-Kendall test is here in a few lines because the exact one is all that short series need; scipy's
`kendalltau(method="exact")`, which gives the same, would be 40 MB that nothing else in the train extra asks for.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

from core.train.alarm import Alarm
from core.train.limits import DetectionLimits

_BLOCKS = 10  # medians of blocks are judged: a single step's loss says little


def rise_p(values: Sequence[float]) -> float:
    """Return the chance of as many rising pairs in a series without a trend (Mann 1945, Kendall 1975), exact.

    Ties count for neither side, which makes the chance too large and never too small.
    """
    pairs = len(values) * (len(values) - 1) // 2
    score = sum((later > earlier) - (later < earlier) for earlier, later in combinations(values, 2))
    counts = _inversions(len(values))
    return sum(counts[: (pairs - score) // 2 + 1]) / sum(counts)


@lru_cache(maxsize=128)
def _inversions(length: int) -> tuple[int, ...]:
    """Return how many orders of so many values have 0, 1, 2, ... pairs that fall."""
    counts = [1]
    for size in range(2, length + 1):
        longer = [0] * (len(counts) + size - 1)
        for falls, ways in enumerate(counts):
            for more in range(size):
                longer[falls + more] += ways
        counts = longer
    return tuple(counts)


def slope(values: Sequence[float]) -> float:
    """Return the median slope of all pairs, for one place (Theil 1950, Sen 1968); 0 for a single value."""
    pairs = combinations(enumerate(values), 2)
    slopes = [(later - earlier) / (there - here) for (here, earlier), (there, later) in pairs]
    return statistics.median(slopes) if slopes else 0.0


class HeldOutDetector:
    """Sees each held-out loss: it diverges when it lies far above its best, or above it and rising since.

    What follows the best is tested without the best itself: the least of a series is always followed by a rise.
    """

    def __init__(self, limits: DetectionLimits) -> None:
        self._limits = limits
        self._since: deque[tuple[int, float]] = deque(maxlen=limits.held_out_window)
        self._best: tuple[int, float] | None = None

    def evaluated(self, step: int, loss: float) -> tuple[Alarm, ...]:
        """Judge the held-out loss after a step, in nats."""
        if not math.isfinite(loss):
            return (Alarm(kind="nan" if math.isnan(loss) else "infinite", metric="held_out_loss", step=step, figure=None),)
        if self._best is None or loss < self._best[1]:
            self._best = (step, loss)
            self._since.clear()
            return ()
        self._since.append((step, loss))
        limit = self._best[1] * (1 + self._allowed_rise())
        if loss <= limit:
            return ()
        return (
            Alarm(kind="diverging", metric="held_out_loss", step=step, figure=loss, limit=limit, baseline=self._best[1]),
        )

    def back_to(self, step: int) -> None:
        """Forget what was seen after a step; the best is kept, for its checkpoint is where a divergence goes back to."""
        while self._since and self._since[-1][0] > step:
            self._since.pop()
        if self._best is not None and self._best[0] > step:
            self._best = None

    def _allowed_rise(self) -> float:
        rises = rise_p([loss for _, loss in self._since]) <= self._limits.trend_p
        return self._limits.min_rise if rises else self._limits.max_rise


class PlateauDetector:
    """Sees each step's loss and warns when blocks of steps show no fall that is sure or worth its while.

    It warns again only after a fall that was both.
    """

    def __init__(self, limits: DetectionLimits) -> None:
        self._limits = limits
        self._size = limits.plateau_steps // _BLOCKS
        self._block: list[float] = []
        self._medians: deque[float] = deque(maxlen=_BLOCKS)
        self._is_told = False

    def see(self, step: int, loss: float) -> Alarm | None:
        """Judge a step by its loss, which is above zero; cheap but where a block ends."""
        self._block.append(math.log(loss))
        if len(self._block) < self._size:
            return None
        self._medians.append(statistics.median(self._block))
        self._block.clear()
        if len(self._medians) < _BLOCKS:
            return None
        is_worth_it = -math.expm1(slope(self._medians) * (_BLOCKS - 1)) >= self._limits.plateau_gain
        is_sure = rise_p([-value for value in self._medians]) <= self._limits.trend_p
        if is_worth_it and is_sure:
            self._is_told = False
        if is_worth_it or is_sure or self._is_told:
            return None
        self._is_told = True
        return Alarm(
            kind="plateau",
            metric="loss",
            step=step,
            figure=math.exp(self._medians[-1]),
            limit=math.exp(self._medians[0]) * (1 - self._limits.plateau_gain),
            baseline=math.exp(self._medians[0]),
        )

    def forget(self) -> None:
        """Begin anew."""
        self._block.clear()
        self._medians.clear()
        self._is_told = False
