"""Who hears events: the events file, stdlib logging, and a filter that hides secrets. The terminal's sink is in the CLI."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from core.config import Profile, secret
from core.errors import ToolMissing
from core.events import (
    CheckpointSaved,
    CheckpointSent,
    Continued,
    Evaluated,
    Event,
    Found,
    Leaving,
    MemoryLow,
    Note,
    OnEvent,
    Paused,
    Progress,
    Promoted,
    Published,
    Resumed,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    SetAside,
    StageFinished,
    StageReused,
    StageStarted,
    TrainingDecided,
    TrainStep,
    TrialEnded,
    parse_event,
)
from core.files import disk_full_is_an_error
from core.report.visible import visible

LOGGER = logging.getLogger("core")
LOGGER.addHandler(logging.NullHandler())  # whoever runs core decides where its lines go
_MEMORY_ACTIONS = {
    "caches-freed": "caches were freed",
    "paused": "the training pauses while other programs hold it",
    "shrink-asked": "the training itself holds too much: smaller micro-batches are due",
}
_SHORTEST_SECRET = 4  # a shorter value would blank out ordinary words


class EventsFile:
    """Appends every event to a file, one JSON line each, written through at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, event: Event) -> None:
        """Append one event; a single write keeps lines whole when several processes append."""
        with disk_full_is_an_error(self._path.parent):
            os.write(self._handle, event.model_dump_json().encode() + b"\n")

    def __enter__(self) -> EventsFile:
        """Return the open file."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Close the file."""
        os.close(self._handle)


def log(event: Event) -> None:
    """Hand an event to the logger `core` with its level; progress is debug."""
    LOGGER.log(level_of(event), "%s", describe(event))


def level_of(event: Event) -> int:
    """Return the logging level of an event."""
    match event:
        case Progress() | TrainStep():
            return logging.DEBUG
        case RunFailed():
            return logging.ERROR
        case SetAside() | RolledBack() | Note(level="warning") | TrainingDecided(level="warning") | Found():
            return logging.WARNING
        case Paused() | MemoryLow() | Leaving():
            return logging.WARNING
        case StageFinished() | StageReused() if not event.verdict.passed:
            return logging.WARNING
        case _:
            return logging.INFO


def describe(event: Event) -> str:
    """Return an event as one line for a person; what a stranger's file put into it is made visible."""
    return visible(
        _of_run(event)
        or _of_stage(event)
        or _of_work(event)
        or _of_publishing(event)
        or _of_waiting(event)
        or _of_trial(event)
        or _of_training(event)
    )


def _of_run(event: Event) -> str:
    match event:
        case RunStarted():
            return f"run {event.run_id} of profile {event.profile} began"
        case RunFinished():
            return f"run {event.run_id} finished: {event.summary}"
        case RunFailed():
            return f"run {event.run_id} failed: {event.error.splitlines()[0]}"
        case Promoted():
            return f"{event.profile} now points to {event.artifact_id} (before: {event.previous or 'nothing'})"
        case RolledBack():
            restored = event.restored or "nothing"
            return f"{event.profile} is back from {event.artifact_id} to {restored}: {event.reason}"
        case _:
            return ""


def _of_stage(event: Event) -> str:
    match event:
        case StageStarted():
            return f"{event.stage.value} {event.artifact_id} began"
        case StageReused():
            return f"{event.stage.value} {event.artifact_id} verified and reused{_gate(event.verdict.passed)}"
        case StageFinished():
            return f"{event.stage.value} {event.artifact_id} done in {event.seconds:.1f} s{_gate(event.verdict.passed)}"
        case SetAside():
            return f"{event.stage.value} {event.artifact_id} set aside to {event.moved_to}: {event.reason}"
        case _:
            return ""


def _gate(passed: bool) -> str:
    return "" if passed else ", its gate said no"


def _of_work(event: Event) -> str:
    match event:
        case Progress():
            total = "" if event.total is None else f"/{event.total:g}"
            return f"{event.task}: {event.done:g}{total} {event.unit}"
        case Note():
            return event.text
        case Found():
            finding = event.finding
            return f"{finding.code} at {finding.where}: {finding.cause}; {finding.evidence}. {finding.remedy}"
        case Resumed():
            return f"{event.stage.value} goes on after {event.done:g} {event.unit}"
        case _:
            return ""


def _of_publishing(event: Event) -> str:
    if not isinstance(event, Published):
        return ""
    at = f" at {event.revision[:12]}" if event.revision else ""
    sent = f"{event.sent} files sent ({event.bytes_sent / 1e6:.1f} MB), {event.already_there} were there"
    return f"{event.artifact_id} is published to {event.to}{at}: {sent}"


def _of_waiting(event: Event) -> str:
    match event:
        case Paused():
            return f"{event.stage.value} waits, {event.patience_s:g} s at most: {event.reason}"
        case Continued():
            return f"{event.stage.value} goes on: what it waited for is back"
        case Leaving():
            by = f", by {event.deadline:%H:%M:%S}Z" if event.deadline else ""
            return f"{event.stage.value} must leave: {event.source} takes this machine or process away ({event.way}{by})"
        case _:
            return ""


def _of_trial(event: Event) -> str:
    if not isinstance(event, TrialEnded):
        return ""
    drawn = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in event.drawn.items()
    )
    how = event.reason if event.held_out_loss is None else f"held-out loss {event.held_out_loss:.4f}"
    return f"trial {event.number} {event.outcome} ({event.ended}/{event.trials}), {how}: {drawn}"


def _of_training(event: Event) -> str:
    match event:
        case TrainStep():
            return f"step {event.step}/{event.steps}: loss {event.loss:.4f}, learning rate {event.learning_rate:.2e}"
        case MemoryLow():
            left = f"{event.free_bytes >> 20} MiB < {event.limit_bytes >> 20} MiB of memory left ({event.place})"
            return f"step {event.step}: {left}, {_MEMORY_ACTIONS[event.action]}"
        case CheckpointSaved() | CheckpointSent():
            place = "saved and verified" if isinstance(event, CheckpointSaved) else "is in the second home"
            return f"checkpoint at step {event.step} {place}"
        case Evaluated():
            return f"held-out loss {event.held_out_loss:.4f} after step {event.step}"
        case TrainingDecided():
            return f"training {event.decision} at step {event.step}" + (f": {event.text}" if event.text else "")
        case _:
            return event.kind


def secret_names(profile: Profile) -> tuple[str, ...]:
    """Return the names of the variables that hold a profile's secrets."""
    judge = profile.label.samples.judge
    of_label = (profile.label.api_key_env, judge.api_key_env if judge else None)
    named = (*profile.alerts.url_envs, *of_label, *profile.remote.secret_names(), profile.publish.token_env)
    return tuple(name for name in named if name)


def hide(text: str, names: Iterable[str]) -> str:
    """Replace the values of secret variables in a text by their names."""
    for name in names:
        try:
            value = secret(name).strip()  # as it is sent
        except ToolMissing:
            continue
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>")
    return text


def hiding(names: tuple[str, ...], sink: OnEvent) -> OnEvent:
    """Return a sink that hands events on with secret values replaced by the names of their variables."""

    def hand_on(event: Event) -> None:
        written = event.model_dump_json()
        hidden = hide(written, names)
        sink(event if hidden == written else parse_event(hidden))

    return hand_on
