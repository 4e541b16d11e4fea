"""Counts bytes that several threads move, and tells of them twice a second from one."""

from __future__ import annotations

import threading
import time

from core.contract import Stage
from core.events import OnEvent, Progress

EVERY_S = 0.5
_MIB = 1 << 20


class Telling:
    """The progress of one transfer; `add` is for the threads that move bytes, `tell` for the one that waits for them."""

    def __init__(self, task: str, total_bytes: int, stage: Stage | None, on_event: OnEvent) -> None:
        self._task, self._total, self._stage, self._on_event = task, total_bytes, stage, on_event
        self._done, self._told_at, self._guard = 0, 0.0, threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes; fewer than none where some must be moved again."""
        with self._guard:
            self._done += count

    def tell(self, *, last: bool = False) -> None:
        """Emit the progress, at most twice a second but for the last time."""
        now = time.perf_counter()
        if last or now - self._told_at >= EVERY_S:
            self._told_at = now
            done, total = self._done / _MIB, self._total / _MIB
            self._on_event(Progress(stage=self._stage, task=self._task, done=done, total=total, unit="MiB"))
