"""The word to stop, from a signal or a cloud's notice; the worker obeys it where its state is whole."""

from __future__ import annotations

from core.errors import EdgekilnError, Evicted, Terminated
from core.train.eviction import Watcher
from core.train.notices import Notice

_AGAIN = "Start the same command again; it goes on where this one stopped."


class Stop:
    """Holds the first reason a worker has to end; a notice that is withdrawn before it was obeyed is none."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    @property
    def asked(self) -> EdgekilnError | None:
        """The error to end with, None while there is no reason."""
        notice = self._watcher.current()
        return _error_of(notice) if notice is not None and notice.leaves else None

    def is_asked(self) -> bool:
        """Say whether there is a reason."""
        return self.asked is not None

    def allows(self, save_s: float) -> bool:
        """Say whether a save of that length ends before the machine does."""
        return self._watcher.fits(save_s)

    def obey(self) -> None:
        """Raise what was asked for."""
        if (asked := self.asked) is not None:
            raise asked


def _error_of(notice: Notice) -> EdgekilnError:
    if notice.source == "SIGTERM":
        return Terminated("SIGTERM: the training stopped at its newest checkpoint", remedy=_AGAIN)
    by = f", by {notice.deadline:%H:%M:%S}Z" if notice.deadline else ""
    return Evicted(
        f"{notice.source} takes this machine away ({notice.kind}{by}): the training stopped at its newest checkpoint",
        remedy=_AGAIN,
    )
