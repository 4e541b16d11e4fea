"""How far one model is from another on the same prompts, with the interval that chance alone would give. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from core.contract import Contract

FEWEST = 8  # prompts; of fewer the bootstrap's interval is far too narrow
CONFIDENCE = 0.95
_RESAMPLES = 10_000
_SEED = 0
_AT_ONCE = 4_000_000  # numbers drawn at once, so that memory does not grow with the prompts

Verdict = Literal["better", "worse", "no clear difference", "too few prompts"]


class Difference(Contract):
    """A figure of two models over the prompts both have it on, and the second's less the first's.

    `low` and `high` are the percentile interval of CONFIDENCE of a bootstrap over prompts, in pairs (Efron and Tibshirani,
    An Introduction to the Bootstrap, 1993, chapter 13); the verdict is the second model's.
    """

    metric: str
    prompts: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    verdict: Verdict


def difference(
    metric: str,
    first: Sequence[float],
    second: Sequence[float],
    weights: Sequence[float],
    *,
    lower_is_better: bool,
) -> Difference:
    """Compare two models' sums a prompt; a figure is the sum over all prompts divided by that of the weights."""
    one, other, weight = (np.asarray(values, dtype=np.float64) for values in (first, second, weights))
    total = weight.sum()
    low, high = _interval(other - one, weight)
    return Difference(
        metric=metric,
        prompts=len(one),
        first=float(one.sum() / total),
        second=float(other.sum() / total),
        difference=float((other - one).sum() / total),
        low=low,
        high=high,
        verdict=_verdict(len(one), low, high, lower_is_better=lower_is_better),
    )


def _interval(differences: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(_SEED)
    size = len(differences)
    step = max(1, _AT_ONCE // size)
    found = []
    for begun in range(0, _RESAMPLES, step):
        places = drawn.integers(0, size, (min(step, _RESAMPLES - begun), size))
        found.append(differences[places].sum(axis=1) / weights[places].sum(axis=1))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return float(low), float(high)


def _verdict(prompts: int, low: float, high: float, *, lower_is_better: bool) -> Verdict:
    if prompts < FEWEST:
        return "too few prompts"
    if low <= 0 <= high:
        return "no clear difference"
    return "better" if (high < 0) == lower_is_better else "worse"
