"""Which requests are decoded together: those whose prompts have the same padded length. Pure."""

from __future__ import annotations

from core.label.request import Request

STEP = 32  # prompts are padded to a multiple of so many tokens, whatever lies beside them: see worker.py
_BATCHES = 8  # requests that are taken ahead, in batches, so that batches of one length fill


def padded(tokens: int) -> int:
    """Return the length that a prompt of so many tokens is padded to."""
    return -(-tokens // STEP) * STEP


class Pool:
    """Requests that were taken and wait for others of their length."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._waiting: dict[int, list[Request]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    @property
    def room(self) -> int:
        """How many more may be taken."""
        return self._rows * _BATCHES - len(self)

    def add(self, request: Request, length: int) -> None:
        """Let a request of a padded length wait."""
        self._waiting.setdefault(length, []).append(request)

    def take(self) -> list[Request]:
        """Take the oldest requests of the length that most wait of, at most a batch; empty when none waits."""
        if not self._waiting:
            return []
        length = max(sorted(self._waiting), key=lambda length: len(self._waiting[length]))
        waiting = self._waiting.pop(length)
        if left := waiting[self._rows :]:
            self._waiting[length] = left
        return waiting[: self._rows]
