"""A training as it stands, looked at from another process: what runs, what was measured, what was decided. Nothing is written."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from core.contract import Contract, Stage
from core.errors import ArtifactError, ArtifactMissing
from core.nouns import Adapter
from core.runs import is_held
from core.train import checkpoints
from core.train.eta import Pace, Span, earlier_paces, remaining
from core.train.recorded import HeldOut, Point, Recorded, Start, Step, is_written
from core.train.request import WORKERS
from core.workspace import MANIFEST, Workspace, read_manifest

_MAX_SMALL_BYTES = 4 << 20
_MOST_BUCKETS = 400
_MOST_DECISIONS = 200
_METRICS, _DECISIONS = "metrics.jsonl", "decisions.jsonl"

State = Literal["starting", "running", "finished", "stopped", "killed"]


class Bucket(Contract):
    """Some steps in a row, the last of them `step`; a figure that is no number is left out, None where all are."""

    step: int
    loss_min: float | None
    loss_mean: float | None
    loss_max: float | None
    grad_norm_max: float | None


class Seen(Contract):
    """A training at one moment; None for what is not known (yet).

    `state`: `starting` before its first worker writes and between two of them, `stopped` with an error, `killed` when nobody
    works on it any more. `why` says more about it.
    """

    training: str
    student: str | None
    state: State
    why: str | None
    start: Start | None
    last: Step | None
    layers: Step | None
    losses_not_finite: int
    curve: tuple[Bucket, ...]
    held_out: tuple[HeldOut, ...]
    checkpoint_step: int | None
    eta: Span | None
    decisions: tuple[dict[str, Any], ...]

    @property
    def is_over(self) -> bool:
        """Say whether nothing more will come of it by itself."""
        return self.state in {"finished", "stopped", "killed"}


class Watched:
    """One training of a workspace; `look` reads what is new."""

    def __init__(self, workspace: Workspace, training: str) -> None:
        self.training = training
        self._workspace = workspace
        self._staged = workspace.staging(Stage.TRAIN, training)
        self._published = workspace.folder(Stage.TRAIN, training)
        self._recorded = Recorded(self._content / _METRICS)
        self._earlier: tuple[Start | None, tuple[Pace, ...]] = (None, ())

    @property
    def _content(self) -> Path:
        """Where it writes; what it wrote, once that was published, though its scratch folder may still be cleared away."""
        under_work = self._staged / "content"
        is_published = not under_work.is_dir() and (self._published / MANIFEST).exists()
        return under_work if self._staged.is_dir() and not is_published else self._published

    def look(self) -> Seen:
        """Return how it stands now."""
        content = self._content
        if self._recorded.path != content / _METRICS:  # it was published since the last look
            self._recorded = Recorded(content / _METRICS)
        self._recorded.refresh()
        recorded = self._recorded
        state, why = self._state(content)
        kept = checkpoints.all_in(self._staged / "checkpoints")
        return Seen(
            training=self.training,
            student=self._student(content),
            state=state,
            why=why,
            start=recorded.start,
            last=recorded.last,
            layers=recorded.layers,
            losses_not_finite=sum(not math.isfinite(point.loss) for point in recorded.points),
            curve=curve(recorded.points),
            held_out=tuple(recorded.held_out),
            checkpoint_step=checkpoints.step_of(kept[-1]) if kept else None,
            eta=self._eta() if state == "running" else None,
            decisions=tuple(_decisions(content / _DECISIONS)),
        )

    def _state(self, content: Path) -> tuple[State, str | None]:
        if content == self._published:
            return self._verdict()
        if is_written(content / _METRICS):
            return "running", None
        if is_held(self._workspace):
            return (
                "starting",
                f"no worker writes yet; {_small_text(self._workspace.root / 'lock') or 'a process'} is at work",
            )
        if (why := self._why_it_ended(content)) is not None:
            return "stopped", why
        return "killed", "nobody works on it; the same command goes on at its newest checkpoint"

    def _why_it_ended(self, content: Path) -> str | None:
        """Return what the supervisor gave up for or the newest worker ended with; an earlier worker's end was mended."""
        decided = _decisions(content / _DECISIONS)
        if decided and decided[-1].get("decision") == "gave-up":
            return str(decided[-1].get("reason"))
        failure = self._of_newest_worker("failure.json")
        return None if failure is None else str(failure.get("problem"))

    def _verdict(self) -> tuple[State, str | None]:
        try:
            adapter = read_manifest(self._workspace, Stage.TRAIN, self.training, Adapter)
        except ArtifactError as error:
            return "stopped", error.problem
        verdict = "its gate said yes" if adapter.verdict.passed else "its gate said no"
        gain = adapter.base_held_out_loss - adapter.held_out_loss
        return (
            "finished",
            f"held-out loss {adapter.base_held_out_loss:.4f} -> {adapter.held_out_loss:.4f} ({-gain:+.4f}), {verdict}",
        )

    def _student(self, content: Path) -> str | None:
        published = _json(self._published / MANIFEST) if content == self._published else None
        if published is not None:
            student = published.get("student")
            return str(student.get("name")) if isinstance(student, dict) else None
        asked = self._of_newest_worker("request.json")
        return None if asked is None else str(asked.get("student_name"))

    def _of_newest_worker(self, name: str) -> dict[str, Any] | None:
        """Return what a file of the worker that was started last holds, None where there is none."""
        newest = max((self._staged / WORKERS).glob("*/request.json"), default=None)
        return None if newest is None else _json(newest.with_name(name))

    def _eta(self) -> Span | None:
        start = self._recorded.start
        if start is None:
            return None
        if self._earlier[0] != start:
            self._earlier = (start, earlier_paces(self._workspace, start.speed, start.device_name, start.host))
        return remaining(self._recorded.points, start.steps, self._earlier[1])


def newest_training(workspace: Workspace) -> str | None:
    """Return the training that was worked on last, None where there was none."""
    staged = [(path, path.name.removeprefix("train-")) for path in (workspace.root / "staging").glob("train-*")]
    published = [(path, path.name) for path in (workspace.root / "artifacts" / Stage.TRAIN.value).glob("*")]
    found = [(_touched(path), name) for path, name in (*staged, *published) if path.is_dir()]
    return max(found)[1] if found else None


def named_training(workspace: Workspace, beginning: str) -> str:
    """Return the training whose id begins so; ArtifactMissing when there is none, or more than one."""
    names = {path.name.removeprefix("train-") for path in (workspace.root / "staging").glob("train-*")}
    names |= {path.name for path in (workspace.root / "artifacts" / Stage.TRAIN.value).glob("*")}
    found = sorted(name for name in names if name.startswith(beginning)) if beginning else []
    if len(found) != 1:
        what = f"{len(found)} trainings begin with" if found else "no training begins with"
        raise ArtifactMissing(
            f"{what} {beginning!r} in {workspace.root}", remedy="Name one of `edgekiln status`, or none for the newest."
        )
    return found[0]


def curve(points: Sequence[Point]) -> tuple[Bucket, ...]:
    """Return the steps in at most 400 buckets, so that no spike is lost however long the training is."""
    size = max(1, math.ceil(len(points) / _MOST_BUCKETS))
    return tuple(_bucket(points[start : start + size]) for start in range(0, len(points), size))


def _bucket(points: Sequence[Point]) -> Bucket:
    losses = [point.loss for point in points if math.isfinite(point.loss)]
    norms = [point.grad_norm for point in points if point.grad_norm is not None and math.isfinite(point.grad_norm)]
    return Bucket(
        step=points[-1].step,
        loss_min=min(losses, default=None),
        loss_mean=math.fsum(losses) / len(losses) if losses else None,
        loss_max=max(losses, default=None),
        grad_norm_max=max(norms, default=None),
    )


def _touched(folder: Path) -> float:
    """Return when a training's folder last changed, by the files that change while it runs."""
    files = (folder, folder / "content" / _METRICS, folder / _METRICS, folder / MANIFEST)
    times = []
    for path in files:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)


def _decisions(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in (_small_text(path) or "").splitlines()[-_MOST_DECISIONS:]:
        with contextlib.suppress(ValueError):
            if isinstance(told := json.loads(line), dict):
                found.append(told)
    return found


def _json(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        told = json.loads(_small_text(path) or "")
        return told if isinstance(told, dict) else None
    return None


def _small_text(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return stream.read(_MAX_SMALL_BYTES).decode(errors="replace").strip() or None
    except OSError:
        return None
