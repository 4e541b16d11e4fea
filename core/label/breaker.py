"""Whether an endpoint is down: after failures in a row nothing is sent but one request now and then, until one is answered."""

from __future__ import annotations

import math

DOWN_AFTER = 8  # requests that fail in a row mean that the endpoint is down, not that the prompts are bad
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 60.0


class Breaker:
    """The state of one endpoint. Not locked: its owner calls it under a lock. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self.open_since: float | None = None
        self.answered_ever = False
        self.failed_in_a_row = 0
        self._wait_s = _FIRST_WAIT_S
        self._next_try = 0.0
        self._trying = False

    def wait_s(self, now: float) -> float:
        """Return how long a sender must wait before it asks again; 0 lets it send, and in a pause makes it the one that tries."""
        if self.open_since is None:
            return 0.0
        if self._trying or now < self._next_try:
            return max(0.05, self._next_try - now)
        self._trying = True
        return 0.0

    def answered(self, sent_at: float = math.inf) -> bool:
        """Note an answer and return whether it ends a pause; one to what was sent before the pause does not."""
        self.answered_ever = True
        if self.open_since is not None and sent_at < self.open_since:
            return False
        ends, self.open_since = self.open_since is not None, None
        self.failed_in_a_row, self._trying, self._wait_s = 0, False, _FIRST_WAIT_S
        return ends

    def failed(self, now: float) -> bool:
        """Note a failure that is the endpoint's, not the request's, and return whether it begins a pause."""
        self.failed_in_a_row += 1
        if self.open_since is not None:
            if self._trying:
                self._trying = False
                self._wait_s = min(_LONGEST_WAIT_S, 2 * self._wait_s)
                self._next_try = now + self._wait_s
            return False
        if self.failed_in_a_row < DOWN_AFTER:
            return False
        self.open_since, self._next_try = now, now + self._wait_s
        return True
