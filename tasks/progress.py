"""The progress artifact that moves while a stage works. It follows events, and never disturbs the work."""

from __future__ import annotations

import threading
import time
from typing import cast
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from core.events import Event, Progress, TrainStep

_INTERVAL_S = 2.0  # a call to the server takes a while, and the small ring needs no more


class ProgressRing:
    """A sink that shows the newest Progress or TrainStep under the run, at most every two seconds."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._artifact: UUID | None = None
        self._told = 0.0
        self._thread = threading.get_ident()

    def __call__(self, event: Event) -> None:
        """Move the ring; the run's context lives in the task's own thread, so other threads are passed over."""
        percent = _percent(event)
        if percent is None or threading.get_ident() != self._thread or time.perf_counter() - self._told < _INTERVAL_S:
            return
        self._told = time.perf_counter()
        self.show(percent)

    def show(self, percent: float) -> None:
        """Set the ring; a server that cannot be reached must not end an hour of training."""
        try:
            if self._artifact is None:
                self._artifact = cast(UUID, create_progress_artifact(percent, key=self._key))
            else:
                update_progress_artifact(self._artifact, percent)
        except (httpx.HTTPError, PrefectException):
            return


def _percent(event: Event) -> float | None:
    if isinstance(event, TrainStep):
        return min(100.0 * event.step / max(event.steps, 1), 100.0)
    return min(100.0 * event.done / event.total, 100.0) if isinstance(event, Progress) and event.total else None
