"""What keeps a worker from being orphaned for ever: it ends by itself a while after its supervisor, hung or not."""

from __future__ import annotations

import math
import signal
import time
from pathlib import Path

from core.attended_worker import is_attended
from core.train.limits import DetectionLimits
from core.train.request import TrainRequest


class Attendance:
    """Says how long nobody has attended to this worker; to be asked at every sign of life.

    The kernel ends a worker that asks no more: by then a supervisor would have found it stuck and killed it.
    """

    def __init__(self, lock: Path, allowed_s: float, limits: DetectionLimits) -> None:
        self._lock = lock
        self.allowed_s = allowed_s
        self._limits = limits
        self._asked_s = self._attended_s = time.monotonic()
        self._longest_s = 0.0
        self._set_alarm()

    def alone_s(self) -> float:
        """Return for how many seconds there has been no supervisor, 0 while there is one."""
        now_s = time.monotonic()
        self._longest_s = max(self._longest_s, now_s - self._asked_s)
        self._asked_s = now_s
        self._set_alarm()
        if is_attended(self._lock):
            self._attended_s = now_s
        return now_s - self._attended_s

    def _set_alarm(self) -> None:
        silence_s = max(self._limits.first_step_s, self._limits.stuck_multiple * self._longest_s)
        signal.alarm(math.ceil(self.allowed_s + silence_s))  # SIGALRM, not handled: it ends the process


def attendance_of(request: TrainRequest) -> Attendance | None:
    """Return the attendance of a worker that may outlive its supervisor, None for one that ends with it."""
    allowed_s = request.config.supervision.orphan_s
    if request.supervisor is None or allowed_s == 0:
        return None
    return Attendance(Path(request.supervisor), allowed_s, request.config.detection)
