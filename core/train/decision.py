"""What is decided about a training, the log it is kept in, and where the training stands by it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, ValidationError

from core.contract import Contract, Stage
from core.errors import ManifestBroken
from core.events import Note, OnEvent, TrainingDecided
from core.files import write_atomic
from core.train.alarm import Alarm
from core.train.course import Course

DecisionKind = Literal[
    "resumed",  # by a new process, from `to_step`
    "checkpoint-set-aside",
    "halted",  # before the step of `alarm` changed a weight; it is replayed from `to_step`
    "transient",  # the replayed step was as it should be
    "skipped",  # the rows or the step are passed over, from `to_step` on
    "rolled-back",
    "restarted",  # the worker was killed or hung
    "shrunk",  # memory ran out
    "taken-over",  # from a supervisor that died
    "gave-up",
    "finished",
]
_WARNINGS = frozenset({"rolled-back", "restarted", "shrunk", "gave-up"})
_TOLD_OTHERWISE = frozenset({"resumed", "checkpoint-set-aside", "finished"})  # each has an event of its own


class Decision(Contract):
    """One decision at an optimiser step. `to_step` is where the training goes on from, 0 the start.

    `left_out`, `skipped_step`, `learning_rate_factor` and `micro_batch` are what it changes of the course.
    """

    decision: DecisionKind
    at: AwareDatetime
    step: int
    reason: str = ""
    to_step: int | None = None
    alarm: Alarm | None = None
    left_out: tuple[str, ...] = ()
    skipped_step: int | None = None
    learning_rate_factor: float | None = None
    micro_batch: int | None = None
    moved_to: str | None = None
    adapter_step: int | None = None
    device: str | None = None

    @property
    def text(self) -> str:
        """Say it in one line for a person."""
        done = [
            f"back to step {self.to_step}" if self.decision == "rolled-back" else "",
            f"rows left out: {', '.join(self.left_out)}" if self.left_out else "",
            f"nothing learned at step {self.skipped_step}" if self.skipped_step is not None else "",
            f"learning rate x {self.learning_rate_factor:g}" if self.learning_rate_factor is not None else "",
            f"micro-batch {self.micro_batch}" if self.micro_batch is not None else "",
        ]
        return "; ".join(part for part in (self.reason, *done) if part)


@dataclass(frozen=True)
class Standing:
    """Where a training stands by its decisions; `suspect` is the alarm whose step is being replayed."""

    course: Course = field(default_factory=Course)
    suspect: Alarm | None = None
    skips: int = 0
    rollbacks: int = 0
    restarts_from: tuple[int, ...] = ()

    def restarts_in_a_row(self, step: int) -> int:
        """Return how often in a row the worker was restarted from a step."""
        others = [place for place, former in enumerate(reversed(self.restarts_from)) if former != step]
        return others[0] if others else len(self.restarts_from)


def standing_of(decisions: Iterable[Decision]) -> Standing:
    """Return where a training stands after all that was decided about it."""
    standing = Standing()
    for decision in decisions:
        standing = _after(standing, decision)
    return standing


def _after(before: Standing, decision: Decision) -> Standing:
    kind, changes = decision.decision, {"course": _changed(before.course, decision)}
    match kind:
        case "halted":
            return _with(before, suspect=decision.alarm)
        case "transient" | "skipped":
            return _with(before, **changes, suspect=None, skips=before.skips + 1)
        case "rolled-back":
            return _with(before, **changes, suspect=None, rollbacks=before.rollbacks + 1)
        case "restarted":
            return _with(before, restarts_from=(*before.restarts_from, decision.to_step))
        case _:
            return _with(before, **changes)


def _with(standing: Standing, **changes: Any) -> Standing:
    return Standing(**{**standing.__dict__, **changes})


def _changed(course: Course, decision: Decision) -> Course:
    skipped = () if decision.skipped_step is None else (decision.skipped_step,)
    return Course(
        left_out=(*course.left_out, *(row for row in decision.left_out if row not in course.left_out)),
        skipped_steps=(*course.skipped_steps, *skipped),
        learning_rate_factor=decision.learning_rate_factor or course.learning_rate_factor,
        micro_batch=decision.micro_batch or course.micro_batch,
    )


def read_decisions(path: Path) -> list[Decision]:
    """Read a log of decisions; none where there is no file, ManifestBroken names the first line that holds none."""
    found, broken = _read(path)
    if broken:
        raise ManifestBroken(f"{path}:{broken[0]} holds no decision", remedy="Take that line out, then run again.")
    return found


def _read(path: Path) -> tuple[list[Decision], list[int]]:
    """Return the decisions of a log, and the numbers of the lines that hold none."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    found: list[Decision] = []
    broken = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(Decision.model_validate_json(line))
        except ValidationError:
            broken.append(number)
    return found, broken


class Decisions:
    """What was decided about a training, over all the processes that worked on it; the file is rewritten whole each time.

    A log that was damaged is moved to the quarantine and goes on without the lines that hold no decision: what they changed
    is decided anew where it is still needed.
    """

    def __init__(self, path: Path, on_event: OnEvent, quarantine: Path) -> None:
        self.path = path
        self._on_event = on_event
        self.records, broken = _read(path)
        if broken:
            self._set_aside(quarantine, broken)

    def _set_aside(self, quarantine: Path, broken: list[int]) -> None:
        quarantine.mkdir(parents=True, exist_ok=True)
        target = quarantine / f"{self.path.stem}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}{self.path.suffix}"
        self.path.rename(target)
        self._write()
        lines = ", ".join(map(str, broken))
        text = f"{self.path}: no decision in line {lines}; the other {len(self.records)} count, the file is now {target}"
        self._on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))

    def add(self, decision: DecisionKind, step: int, **facts: Any) -> Decision:
        """Write a decision down, then tell it."""
        made = Decision(decision=decision, at=datetime.now(UTC), step=step, **facts)
        self.records.append(made)
        self._write()
        if decision not in _TOLD_OTHERWISE:
            level: Literal["info", "warning"] = "warning" if decision in _WARNINGS else "info"
            self._on_event(TrainingDecided(decision=decision, step=step, to_step=made.to_step, text=made.text, level=level))
        return made

    def adopt(self, path: Path) -> None:
        """Take over what was decided before a checkpoint from elsewhere was taken, where it is more than is known here."""
        known = read_decisions(path)
        if known and (not self.records or standing_of(known).rollbacks > self.standing.rollbacks):
            self.records = known
            self._write()

    def _write(self) -> None:
        lines = (json.dumps(one.model_dump(mode="json", exclude_defaults=True)) for one in self.records)
        write_atomic(self.path, "".join(f"{line}\n" for line in lines).encode())

    @property
    def abandoned_after(self) -> tuple[int, ...]:
        """The step each going back went to; what was taken later under fewer of them is not to be gone on from."""
        return tuple(one.to_step or 0 for one in self.records if one.decision == "rolled-back")

    @property
    def standing(self) -> Standing:
        """Where the training stands now."""
        return standing_of(self.records)
