"""What a stage's task needs to know: workspace, profile, the profile's folder, and the sink for events. Knows no Prefect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from core.config import Profile
from core.events import OnEvent, ignore
from core.workspace import Workspace

_LISTENER: ContextVar[OnEvent] = ContextVar("listener", default=ignore)


class Job:
    """One job; a plain class, so that Prefect hands it on without looking for futures inside."""

    def __init__(self, run_id: str, workspace: Workspace, profile: Profile, beside: Path, on_event: OnEvent) -> None:
        self.run_id = run_id
        self.workspace = workspace
        self.profile = profile
        self.beside = beside
        self.on_event = on_event


@contextmanager
def listening(sink: OnEvent) -> Iterator[None]:
    """Let a sink hear every job that runs inside the block."""
    token = _LISTENER.set(sink)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def listener() -> OnEvent:
    """Return the sink that listens here."""
    return _LISTENER.get()
