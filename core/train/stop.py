"""The word to stop, from a signal or another thread; the worker obeys it where its state is whole."""

from __future__ import annotations

import signal
from types import FrameType

from core.errors import EdgekilnError, Terminated


class Stop:
    """Holds the first error a worker was asked to end with."""

    def __init__(self) -> None:
        self.asked: EdgekilnError | None = None

    def ask(self, error: EdgekilnError) -> None:
        """Ask the worker to save and end with an error such as Evicted; safe from any thread."""
        self.asked = self.asked or error

    def listen(self) -> None:
        """Take SIGTERM as the word to stop, in place of the sudden end it is by default."""
        signal.signal(signal.SIGTERM, self._heard)

    def obey(self) -> None:
        """Raise what was asked for."""
        if self.asked is not None:
            raise self.asked

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.ask(
            Terminated(
                "SIGTERM: the training stopped at its newest checkpoint",
                remedy="Start the same command again; it goes on where this one stopped.",
            )
        )
