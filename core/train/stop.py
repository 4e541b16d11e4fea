"""The word to stop, from a signal or a cloud's notice; the worker obeys it where its state is whole."""

from __future__ import annotations

from core.errors import EdgekilnError, Evicted, Terminated
from core.train.eviction import Watcher
from core.train.notices import Notice
from core.train.orphan import Attendance

_AGAIN = "Start the same command again; it goes on where this one stopped."


class Stop:
    """Holds the first reason a worker has to end; a notice that is withdrawn before it was obeyed is none.

    It is asked between steps and between batches of an evaluation, which is how a worker shows that it is alive.
    """

    def __init__(self, watcher: Watcher, attendance: Attendance | None = None) -> None:
        self._watcher = watcher
        self._attendance = attendance

    @property
    def asked(self) -> EdgekilnError | None:
        """The error to end with, None while there is no reason."""
        notice = self._watcher.current()
        if notice is not None and notice.leaves:
            return _error_of(notice)
        if self._attendance is None or (alone_s := self._attendance.alone_s()) <= self._attendance.allowed_s:
            return None
        problem = f"no supervisor for {alone_s:.3g} s > {self._attendance.allowed_s:g} s: the training stopped by itself"
        return Terminated(problem, remedy=_AGAIN)

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
