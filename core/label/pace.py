"""How many requests may be under way at an endpoint: more while that brings more tokens a second, half when it objects.

An endpoint has a knee: below it, further requests raise the rate, above it they only wait in its queue. The knee is found by
climbing (double while the rate grows, go back one step when it does not, look again after a while), as endpoints tell
neither their slots nor their limits. After an objection (429, 5xx, a timeout) the number is halved and grows by a quarter.
"""

from __future__ import annotations

import math

START = 4
_WINDOW_ANSWERS = 8  # fewer say little about a rate
_WORTH = 1.05  # a step that brings less than 5 % is noise
_FIRST_REST = 4  # windows before a step that did not pay is tried again; doubled each time
_LONGEST_REST = 64


class Pace:
    """The limit of one labelling. Not locked: its owner calls it under a lock. Times are seconds of any one clock."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = min(most, START)
        self._doubling = True
        self._before: tuple[int, float] | None = None  # the limit that was left for this one, and its rate
        self._rest = 0
        self._next_rest = _FIRST_REST
        self._objected_at = -math.inf
        self._window_from = -math.inf
        self._forget()

    def answered(self, sent_at: float, now: float, tokens: int) -> None:
        """Note an answer; at the end of a window the limit may change.

        By Little's law the rate is the number under way over the time each takes; unlike a count of answers over time it
        does not depend on where a window cuts a burst. Requests that were sent under an earlier limit say nothing.
        """
        if sent_at < self._window_from:
            return
        self._answers += 1
        self._tokens += max(1, tokens)
        self._taken_s += now - sent_at
        if self._answers >= max(_WINDOW_ANSWERS, self.limit):
            self._end_window(self.limit * self._tokens / max(self._taken_s, 1e-9))
            self._window_from = now
            self._forget()

    def objected(self, sent_at: float, now: float) -> None:
        """Note that the endpoint had too much: halve once for all that was under way, and grow slowly from there."""
        if sent_at < self._objected_at:
            return
        self._objected_at = now
        self.limit = max(1, self.limit // 2)
        self._doubling = False
        self._before = None
        self._rest, self._next_rest = 1, _FIRST_REST
        self._window_from = now
        self._forget()

    def _end_window(self, rate: float) -> None:
        if self._before is not None and rate < _WORTH * self._before[1]:
            self.limit, self._before = self._before[0], None
            self._doubling = False
            self._rest, self._next_rest = self._next_rest, min(_LONGEST_REST, 2 * self._next_rest)
            return
        if self._before is not None:
            self._before, self._next_rest = None, _FIRST_REST
        if self._rest > 0:
            self._rest -= 1
            return
        if self.limit < self.most:
            self._before = (self.limit, rate)
            step = self.limit if self._doubling else max(1, self.limit // 4)
            self.limit = min(self.most, self.limit + step)

    def _forget(self) -> None:
        self._answers, self._tokens, self._taken_s = 0, 0, 0.0
