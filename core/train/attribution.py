"""Whether a step that stands out is the fault of its rows or of the weights it met, by the figures of a replay."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from core.contract import Contract
from core.train.alarm import AlarmKind
from core.train.halted import Evidence, RowFigures
from core.train.limits import DetectionLimits

FEWEST_OTHERS = 4  # rows; the spread of fewer says nothing
_SIGMAS_PER_MAD = 1.4826  # of normal noise


class Cause(Contract):
    """What a suspicious step is put down to: rows of the data, named where some stand out, or the learning rate."""

    kind: Literal["data", "rate"]
    rows: tuple[str, ...] = ()
    text: str


def cause_of(
    evidence: Evidence, others_deviations: float | None, limits: DetectionLimits, kind: AlarmKind = "spike"
) -> Cause:
    """Judge a step that was as bad again when it was replayed, or a run of steps, by the kind of its alarm.

    `others_deviations` says how far the other rows' usual loss lies above that of the steps before, None where that cannot be
    said. Rows seen by sound weights stand out from others; by spoilt weights, all of them are as bad. The rows of a run are
    seen by the weights from before it.
    """
    as_bad = f"{len(evidence.others)} other rows on the same weights are as bad"
    if _spoilt(evidence.others):
        return Cause(kind="rate", text=f"{as_bad} (no number)")
    if kind != "run" and others_deviations is not None and others_deviations > limits.others_sigmas:
        return Cause(kind="rate", text=f"{as_bad} ({others_deviations:.3g} deviations above the steps before)")
    rows = standing_out(evidence, limits)
    told = f"{len(rows)} of {len(evidence.rows)} rows stand out from others"
    if rows:
        return Cause(kind="data", rows=rows, text=told)
    if kind in ("nan", "infinite") or len(_usable(evidence.others)) < FEWEST_OTHERS:
        return Cause(kind="data", text=f"{told}, though the step does")
    return Cause(kind="rate", text=f"{told}: it is the weights they met, or the learning rate")


def standing_out(evidence: Evidence, limits: DetectionLimits) -> tuple[str, ...]:
    """Return the rows that have no number or lie further from the others than `row_sigmas`, loss and gradient added up."""
    broken = {row.row_id for row in evidence.rows if row.loss is None or row.grad_norm is None}
    far: set[str] = set()
    if len(_usable(evidence.others)) >= FEWEST_OTHERS:
        losses = _Spread(row.loss for row in evidence.others)
        norms = _Spread(row.grad_norm for row in evidence.others)
        least = limits.min_deviation
        for row in evidence.rows:
            total = losses.deviations(row.loss, least) + norms.deviations(row.grad_norm, least)
            far |= {row.row_id} if total > limits.row_sigmas else set()
    return tuple(row.row_id for row in evidence.rows if row.row_id in broken | far)


def usual_loss(rows: Iterable[RowFigures]) -> float | None:
    """Return the median loss of rows that have one; a few bad rows among them do not move it."""
    losses = [row.loss for row in rows if row.loss is not None]
    return statistics.median(losses) if losses else None


def _usable(rows: Sequence[RowFigures]) -> list[RowFigures]:
    return [row for row in rows if row.loss is not None and row.grad_norm is not None]


def _spoilt(others: Sequence[RowFigures]) -> bool:
    return bool(others) and len(_usable(others)) <= len(others) // 2


class _Spread:
    """Median and robust deviation of the square roots of figures, which are skewed (see detection.py)."""

    def __init__(self, figures: Iterable[float | None]) -> None:
        roots = [math.sqrt(figure) for figure in figures if figure is not None]
        self._middle = statistics.median(roots)
        self._spread = _SIGMAS_PER_MAD * statistics.median(abs(root - self._middle) for root in roots)

    def deviations(self, figure: float | None, least: float) -> float:
        """Return how far a figure lies above the middle, at most one deviation below it."""
        if figure is None:
            return math.inf
        deviation = max(self._spread, self._middle * least / 2)
        return max(-1.0, (math.sqrt(figure) - self._middle) / deviation) if deviation > 0 else 0.0
