"""Counts of whole numbers in bounded memory, and the distribution read off them: percentiles, mean, bins to draw."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import accumulate

from core.contract import Contract

EXACT_BELOW = 1 << 16
_KEPT_BITS = 12
_MOST_BINS = 30
_NICE = (1, 2, 5, 10)
_PERCENTS = (1, 5, 25, 50, 75, 95, 99)


class Bin(Contract):
    """How many rows have a value from `lower` to `upper`, both included."""

    lower: int
    upper: int
    rows: int


class Distribution(Contract):
    """Whole numbers over rows; percentiles are of the nearest rank, so each is a value that came.

    Values below 65,536 are exact; larger ones were rounded down to twelve significant bits, which is less than 0.05 %, in
    everything but `total`, `mean`, `minimum` and `maximum`.
    """

    rows: int
    total: int
    mean: float
    minimum: int
    p1: int
    p5: int
    p25: int
    p50: int
    p75: int
    p95: int
    p99: int
    maximum: int
    bins: tuple[Bin, ...]


class Histogram:
    """Counts whole numbers, none of them negative; at most 65,536 counts and 2,048 for each further doubling."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._total = 0
        self._least: int | None = None
        self._most = 0

    def add(self, value: int) -> None:
        """Count one number."""
        self._counts[value if value < EXACT_BELOW else _rounded(value)] += 1
        self._total += value
        self._most = max(self._most, value)
        self._least = value if self._least is None else min(self._least, value)

    def __add__(self, other: Histogram) -> Histogram:
        """Return both together; the order changes nothing."""
        joined = Histogram()
        joined._counts = self._counts + other._counts
        joined._total = self._total + other._total
        joined._most = max(self._most, other._most)
        joined._least = min((least for least in (self._least, other._least) if least is not None), default=None)
        return joined

    def distribution(self) -> Distribution | None:
        """Return what was counted, None when nothing was."""
        if self._least is None:
            return None
        rows = self._counts.total()
        percentiles = dict(zip((f"p{percent}" for percent in _PERCENTS), self._percentiles(rows), strict=True))
        return Distribution(
            rows=rows,
            total=self._total,
            mean=self._total / rows,
            minimum=self._least,
            **percentiles,
            maximum=self._most,
            bins=_bins(self._counts, percentiles["p99"], self._most),
        )

    def _percentiles(self, rows: int) -> Iterable[int]:
        values = sorted(self._counts)
        reached = list(accumulate(self._counts[value] for value in values))
        place = 0
        for percent in _PERCENTS:
            while 100 * reached[place] < percent * rows:
                place += 1
            yield values[place]


def _rounded(value: int) -> int:
    dropped = value.bit_length() - _KEPT_BITS
    return value >> dropped << dropped


def _bins(counts: Mapping[int, int], almost: int, most: int) -> tuple[Bin, ...]:
    """Return bins of one round width up to the 99th percentile, and one for the rest, which may reach far."""
    least = min(counts)
    width = _width(almost - least + 1)
    first = least // width * width
    end = almost // width * width + width
    inside: Counter[int] = Counter()
    for value, rows in counts.items():
        inside[min(value, end) // width * width] += rows
    regular = [Bin(lower=start, upper=start + width - 1, rows=inside[start]) for start in range(first, end, width)]
    return (*regular, *([Bin(lower=end, upper=most, rows=inside[end])] if inside[end] else []))


def _width(span: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50 and so on that needs few enough bins."""
    needed = span / _MOST_BINS
    power = 10 ** max(0, math.floor(math.log10(needed))) if needed > 1 else 1
    return next(nice * power for nice in _NICE if nice * power >= needed)
