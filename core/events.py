"""The events a stage can emit. Who hears them is decided by the sinks, not here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from core.contract import Contract, Finding, Stage, Verdict


def _now() -> datetime:
    return datetime.now(UTC)


class _Event(Contract):
    at: AwareDatetime = Field(default_factory=_now)


class RunStarted(_Event):
    """A whole run began."""

    kind: Literal["run-started"] = "run-started"
    run_id: str
    profile: str


class RunFinished(_Event):
    """A whole run ended well; `summary` is one line for a person."""

    kind: Literal["run-finished"] = "run-finished"
    run_id: str
    profile: str
    summary: str


class RunFailed(_Event):
    """A whole run ended with an error; `error` is its two lines."""

    kind: Literal["run-failed"] = "run-failed"
    run_id: str
    profile: str
    code: str
    error: str


class StageStarted(_Event):
    """A stage began to work."""

    kind: Literal["stage-started"] = "stage-started"
    stage: Stage
    artifact_id: str


class StageReused(_Event):
    """A finished artifact was verified and taken as it is."""

    kind: Literal["stage-reused"] = "stage-reused"
    stage: Stage
    artifact_id: str
    verdict: Verdict


class StageFinished(_Event):
    """A stage published its artifact."""

    kind: Literal["stage-finished"] = "stage-finished"
    stage: Stage
    artifact_id: str
    seconds: float
    verdict: Verdict


class SetAside(_Event):
    """A broken artifact was moved to quarantine."""

    kind: Literal["set-aside"] = "set-aside"
    stage: Stage
    artifact_id: str
    reason: str
    moved_to: str


class Progress(_Event):
    """How far a piece of work is; `total` is None when nobody knows."""

    kind: Literal["progress"] = "progress"
    stage: Stage | None
    task: str
    done: float
    total: float | None
    unit: str


class Note(_Event):
    """One line worth telling."""

    kind: Literal["note"] = "note"
    stage: Stage | None
    text: str
    level: Literal["info", "warning"] = "info"


class Found(_Event):
    """A finding."""

    kind: Literal["found"] = "found"
    stage: Stage
    finding: Finding


class TrainStep(_Event):
    """One optimiser step; loss in nats per completion token."""

    kind: Literal["train-step"] = "train-step"
    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float | None


class MemoryLow(_Event):
    """Memory is about to run out where a training takes place, and what was done about it.

    `shrink-asked`: what the training itself holds is too much; its supervisor goes on with smaller micro-batches.
    """

    kind: Literal["memory-low"] = "memory-low"
    step: int
    place: Literal["GPU", "host", "cgroup"]
    free_bytes: int
    total_bytes: int
    limit_bytes: int
    action: Literal["caches-freed", "paused", "shrink-asked"]


class CheckpointSaved(_Event):
    """A checkpoint was written and verified."""

    kind: Literal["checkpoint-saved"] = "checkpoint-saved"
    step: int


class CheckpointSent(_Event):
    """A checkpoint is in the workspace's second home: another machine can go on from it."""

    kind: Literal["checkpoint-sent"] = "checkpoint-sent"
    step: int


class Evaluated(_Event):
    """The held-out loss after a step, in nats per completion token."""

    kind: Literal["evaluated"] = "evaluated"
    step: int
    held_out_loss: float


class TrainingDecided(_Event):
    """Something was decided about a training (core.train.decision.DecisionKind); `to_step` is where it goes on from."""

    kind: Literal["training-decided"] = "training-decided"
    decision: str
    step: int
    to_step: int | None
    text: str
    level: Literal["info", "warning"] = "info"


class TrialEnded(_Event):
    """A trial of a search ended; `ended` of `trials` have. `drawn` are its values by the names of the search space."""

    kind: Literal["trial-ended"] = "trial-ended"
    number: int
    outcome: str
    reason: str
    held_out_loss: float | None
    drawn: dict[str, float | int | str]
    ended: int
    trials: int


class Resumed(_Event):
    """A long stage goes on where an earlier process stopped."""

    kind: Literal["resumed"] = "resumed"
    stage: Stage
    done: float
    unit: str


class Paused(_Event):
    """A stage waits for an outside service that is down, `patience_s` seconds at most."""

    kind: Literal["paused"] = "paused"
    stage: Stage
    reason: str
    patience_s: float


class Continued(_Event):
    """The service a stage waited for is back."""

    kind: Literal["continued"] = "continued"
    stage: Stage


class Leaving(_Event):
    """This machine or process is taken away, by `deadline` where one is known; `source` says who takes it, `way` how."""

    kind: Literal["leaving"] = "leaving"
    stage: Stage
    source: str
    way: str
    deadline: AwareDatetime | None


class Promoted(_Event):
    """A profile's pointer was put on a model."""

    kind: Literal["promoted"] = "promoted"
    profile: str
    artifact_id: str
    previous: str | None


class Published(_Event):
    """A model lies outside of this workspace now; `revision` is the commit in a repository, None where there are none."""

    kind: Literal["published"] = "published"
    artifact_id: str
    to: str
    revision: str | None
    sent: int
    already_there: int
    bytes_sent: int


class RolledBack(_Event):
    """A profile's pointer was put back."""

    kind: Literal["rolled-back"] = "rolled-back"
    profile: str
    artifact_id: str
    restored: str | None
    reason: str


Event = Annotated[
    RunStarted
    | RunFinished
    | RunFailed
    | StageStarted
    | StageReused
    | StageFinished
    | SetAside
    | Progress
    | Note
    | Found
    | TrainStep
    | MemoryLow
    | CheckpointSaved
    | CheckpointSent
    | Evaluated
    | TrainingDecided
    | TrialEnded
    | Resumed
    | Paused
    | Continued
    | Leaving
    | Promoted
    | Published
    | RolledBack,
    Field(discriminator="kind"),
]

OnEvent = Callable[[Event], None]
_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def ignore(event: Event) -> None:
    """Drop an event."""


def parse_event(line: str | bytes) -> Event:
    """Read one line of an events file; pydantic.ValidationError when it is no event."""
    return _ADAPTER.validate_json(line)


def tee(*sinks: OnEvent) -> OnEvent:
    """Return a sink that hands every event to all of the sinks in order."""

    def hand_on(event: Event) -> None:
        for sink in sinks:
            sink(event)

    return hand_on
