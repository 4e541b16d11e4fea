"""The checkpoints of one training as its supervisor uses them: verified before use, broken ones set aside and told of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.contract import Stage
from core.events import OnEvent, Resumed, SetAside
from core.train import checkpoints, retention
from core.train.alarm import Alarm
from core.train.checkpoints import Training
from core.train.decision import Decisions


class Kept:
    """Finds where a training can go on from."""

    def __init__(self, folder: Path, quarantine: Path, training: Training, decisions: Decisions, on_event: OnEvent) -> None:
        self._folder = folder
        self._scratch = folder / "writing"
        self._quarantine = quarantine
        self._training = training
        self._decisions = decisions
        self._on_event = on_event

    def newest(self, bound: int | None) -> Path | None:
        """Return the newest verified checkpoint, of a step up to `bound` if it is given; None is the start.

        One that lies here though the training went back before it, fetched from elsewhere say, is none of it.
        """
        found = reversed(checkpoints.all_in(self._folder))
        return self._first_fit(path for path in found if bound is None or checkpoints.step_of(path) <= bound)

    def best(self, alarm: Alarm | None) -> Path | None:
        """Return the verified checkpoint with the lowest held-out loss; None where an alarm's best is the start's."""
        measured = retention.scores(self._folder)
        ranked = retention.by_held_out_loss(self._folder)
        if alarm is not None:
            limit = alarm.baseline if alarm.baseline is not None else float("inf")
            ranked = [path for path in ranked if measured[checkpoints.step_of(path)] <= limit]
        return self._first_fit(ranked)

    def back_to(self, step: int) -> None:
        """Delete what was taken after a step."""
        retention.back_to(self._folder, self._scratch, step)

    def tell_resumed(self, checkpoint: Path) -> None:
        """Write down and tell that a new process goes on from a checkpoint."""
        step = checkpoints.step_of(checkpoint)
        self._decisions.adopt(checkpoint / checkpoints.DECISIONS)
        self._decisions.add("resumed", step)
        self._on_event(Resumed(stage=Stage.TRAIN, done=step, unit="steps"))

    def _first_fit(self, paths: Iterable[Path]) -> Path | None:
        for path in paths:
            if self._sound(path) is None:
                continue
            if not self._is_abandoned(path):
                return path
            retention.delete(path, self._scratch)
        return None

    def _is_abandoned(self, checkpoint: Path) -> bool:
        step, since = checkpoints.step_of(checkpoint), checkpoints.verify(checkpoint).taken.rollbacks
        return any(step > target for target in self._decisions.abandoned_after[since:])

    def _sound(self, checkpoint: Path) -> Path | None:
        found, broken = checkpoints.first_sound([checkpoint], self._quarantine, self._training)
        for one in broken:
            self._decisions.add("checkpoint-set-aside", one.step, reason=one.reason, moved_to=one.moved_to.name)
            name = f"checkpoint of step {one.step}"
            event = SetAside(stage=Stage.TRAIN, artifact_id=name, reason=one.reason, moved_to=str(one.moved_to))
            self._on_event(event)
        return found
