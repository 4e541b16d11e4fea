"""The curve of a learning-rate range test, and the rate it suggests."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import FiniteFloat

from core.contract import Contract
from core.search.section import RangeTest
from core.train.section import TrainConfig

_MEMORY = 0.9  # of the smoothed loss: tests are of dozens of steps, where fastai's 0.98 would never see the fall
_BELOW_LOWEST = 10.0


class Point(Contract):
    """One step: its rate, its loss in nats per completion token, and the loss smoothed over the steps so far."""

    learning_rate: FiniteFloat
    loss: FiniteFloat
    smoothed: FiniteFloat


class Curve(Contract):
    """A range test: its points, why it ended, and the rate it suggests; None when no rate lowered the loss."""

    points: tuple[Point, ...]
    ended: str
    suggested_learning_rate: float | None


class RangeTestRequest(Contract):
    """A student's folder, a file of TokenisedRow, and how to train on them."""

    student_folder: str
    train: str
    config: TrainConfig
    test: RangeTest


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the exponential moving average of losses, free of its start's bias (Kingma and Ba, Adam, section 3)."""
    average, smoothed = 0.0, []
    for number, loss in enumerate(losses, start=1):
        average = _MEMORY * average + (1 - _MEMORY) * loss
        smoothed.append(average / (1 - _MEMORY**number))
    return smoothed


def curve_of(rates: Sequence[float], losses: Sequence[float], ended: str) -> Curve:
    """Return the curve through the steps of a test."""
    points = tuple(
        Point(learning_rate=rate, loss=loss, smoothed=even)
        for rate, loss, even in zip(rates, losses, smooth(losses), strict=True)
    )
    return Curve(points=points, ended=ended, suggested_learning_rate=suggestion(points))


def suggestion(points: Sequence[Point]) -> float | None:
    """Return a tenth of the rate where the smoothed loss is lowest; None when that is at the start.

    The test is L. N. Smith's (Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3), the tenth S. Gugger's
    rule: at the lowest point the loss is about to rise.
    """
    if not points:
        return None
    lowest = min(range(len(points)), key=lambda place: points[place].smoothed)
    if lowest == 0:
        return None
    return max(points[lowest].learning_rate / _BELOW_LOWEST, points[0].learning_rate)


def is_over(losses: Sequence[float], stop_at: float) -> bool:
    """Say whether the newest loss is no number, or the smoothed loss so high above its lowest that the rest is known."""
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    return smoothed[-1] > stop_at * min(smoothed)
