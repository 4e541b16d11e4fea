"""How long a training will still take, as a range: from its own steps, else from earlier trainings of the same speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from core.contract import Contract, Stage
from core.errors import ArtifactError
from core.nouns import Adapter
from core.train.recorded import Point, Recorded, Start
from core.workspace import Workspace, read_manifest

CONFIDENCE = 0.9  # how often what remains shall lie within the range
_BLOCK = 8  # least steps taken as one observation: what disturbs a step often disturbs its neighbours too
_MOST_BLOCKS = 12
_ALIKE = 2.0  # blocks to come that count as one: a machine that is busy stays busy for a while
_MIN_BLOCKS = 3
_MIN_STEPS = 3
_UNITS = (("h", 3600, 1), ("min", 60, 0), ("s", 1, 0))
_LEAST_SHARE = 0.02  # no range is told narrower than this to either side
# Student's t, two-sided 90 %, by degrees of freedom; past the table the normal distribution's
_T = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753)
_MOST_EARLIER = 8  # trainings that are looked into, the newest


class Span(Contract):
    """A time to come between two bounds in seconds; `learned_from` says whose steps it was learned from."""

    low_s: float
    high_s: float
    learned_from: str

    @property
    def text(self) -> str:
        """Say it for a person, in the unit that suits."""
        unit, size, digits = next(each for each in _UNITS if self.high_s >= each[1] * 2 or each[1] == 1)
        low, high = (f"{seconds / size:.{digits}f}" for seconds in (self.low_s, self.high_s))
        return f"{low} {unit}" if low == high else f"{low}-{high} {unit}"


class Pace(Contract):
    """What an earlier training's steps took on a machine, in blocks of seconds a step, and how many rows one step had."""

    artifact_id: str
    steps: int
    rows_per_step: float
    blocks_s: tuple[float, ...]


def remaining(points: Sequence[Point], steps: int, earlier: Sequence[Pace] = ()) -> Span | None:
    """Return how long the steps that are left will take, saves and evaluations between them counted; None when nobody knows.

    The bounds are those of a prediction interval for the mean of what is still to come (Student's t over blocks of steps).
    """
    left = steps - (points[-1].step if points else 0)
    if left <= 0:
        return Span(low_s=0.0, high_s=0.0, learned_from="its own steps")
    own = [point.wall_s for point in points if point.wall_s is not None]
    size = max(_BLOCK, len(own) // _MOST_BLOCKS)
    if len(blocks := _blocks(own, size)) >= _MIN_BLOCKS:
        return _interval(blocks, left / size, left, "its own steps")
    if earlier:
        return _from_earlier(earlier, left, own)
    if len(own) >= _MIN_STEPS:
        return _interval(
            own, 1, left, "its first steps"
        )  # as unsure as one more step: too few to tell how they hang together
    return None


def whole(earlier: Sequence[Pace], rows: int, config_rows_per_step: int, epochs: float) -> Span | None:
    """Return how long a training of so many rows takes by earlier ones of the same speed; None without such."""
    if not earlier:
        return None
    steps = math.ceil(math.ceil(rows / config_rows_per_step) * epochs)
    return _from_earlier(earlier, steps, [])


def _from_earlier(earlier: Sequence[Pace], left: int, own: Sequence[float]) -> Span:
    """Span every earlier training's range; a machine busier or idler than then shows in this one's own steps."""
    spans = [_interval(pace.blocks_s, left / _BLOCK, left, "") for pace in earlier]
    factor = 1.0
    if len(own) >= _MIN_STEPS:
        usual = statistics.median(block for pace in earlier for block in pace.blocks_s)
        factor = statistics.median(own) / usual
    count = f"{len(earlier)} earlier training{'s' if len(earlier) > 1 else ''}"
    return Span(
        low_s=min(1.0, factor) * min(span.low_s for span in spans),
        high_s=max(1.0, factor) * max(span.high_s for span in spans),
        learned_from=count,
    )


def _blocks(walls: Sequence[float], size: int = _BLOCK) -> list[float]:
    """Return the mean of each whole block, the newest steps in the last."""
    begin = len(walls) % size
    return [statistics.fmean(walls[start : start + size]) for start in range(begin, len(walls), size)]


def _interval(observed: Sequence[float], to_come: float, left: int, learned_from: str) -> Span:
    mean = statistics.fmean(observed)
    spread = statistics.stdev(observed) if len(observed) > 1 else 0.5 * mean
    degrees = max(1, len(observed) - 1)
    t = _T[degrees - 1] if degrees <= len(_T) else statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    half = max(t * spread * math.sqrt(1 / len(observed) + 1 / max(1.0, to_come / _ALIKE)), _LEAST_SHARE * mean)
    least = min(observed)  # what is left is hardly faster than the fastest block was
    return Span(low_s=left * max(mean - half, 0.5 * least), high_s=left * (mean + half), learned_from=learned_from)


def earlier_paces(workspace: Workspace, speed: str, device_name: str, host: str) -> tuple[Pace, ...]:
    """Return the paces of finished trainings of the same speed on the same device, the newest first."""
    folder = workspace.root / "artifacts" / Stage.TRAIN.value
    found = sorted(folder.glob("*/metrics.jsonl"), key=lambda path: path.stat().st_mtime, reverse=True)
    paces = []
    for path in found[: 4 * _MOST_EARLIER]:
        pace = _pace_of(workspace, path, (speed, device_name, host))
        paces += [pace] if pace else []
    return tuple(paces[:_MOST_EARLIER])


def _pace_of(workspace: Workspace, path: Path, wanted: tuple[str, str, str]) -> Pace | None:
    recorded = Recorded(path)
    recorded.refresh()
    start = recorded.start
    if start is None or _same(start) != wanted:
        return None
    blocks = _blocks([point.wall_s for point in recorded.points if point.wall_s is not None])
    if not blocks:
        return None
    try:
        adapter = read_manifest(workspace, Stage.TRAIN, path.parent.name, Adapter)
    except ArtifactError:
        return None
    epochs = float(adapter.config["num_train_epochs"])
    return Pace(
        artifact_id=adapter.artifact_id,
        steps=start.steps,
        rows_per_step=start.rows * epochs / start.steps,
        blocks_s=tuple(blocks),
    )


def _same(start: Start) -> tuple[str, str, str]:
    return start.speed, start.device_name, start.host
