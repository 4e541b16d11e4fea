"""What a person is told about a run: a title and a body, made from one event."""

from __future__ import annotations

from typing import Literal

from core.contract import Contract
from core.events import Event, Paused, RunFailed, RunFinished, TrainingDecided


class Message(Contract):
    """A message for a person; `kind` is Apprise's name for how serious it is."""

    title: str
    body: str
    kind: Literal["success", "warning", "failure"]


def message_for(event: Event) -> Message | None:
    """Return what to tell about an event, None for the many nobody needs to be told about."""
    match event:
        case RunFinished():
            return Message(title=f"edgekiln: {event.profile} finished", body=event.summary, kind="success")
        case RunFailed():
            body = f"{event.error}\nRun: {event.run_id}"
            return Message(title=f"edgekiln: {event.profile} failed", body=body, kind="failure")
        case Paused():
            body = f"{event.reason}\nIt goes on by itself when the service is back."
            return Message(title=f"edgekiln: {event.stage.value} waits", body=body, kind="warning")
        case TrainingDecided(decision="rolled-back"):
            title = f"edgekiln: the training went back to step {event.to_step}"
            return Message(title=title, body=event.text, kind="warning")
        case _:
            return None
