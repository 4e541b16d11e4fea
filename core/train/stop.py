"""The word to stop, from a signal or a cloud's notice; the worker obeys it where its state is whole."""

from __future__ import annotations

from core.contract import Stage
from core.errors import EdgekilnError, Evicted, Terminated
from core.events import Leaving, Note, OnEvent, ignore
from core.train.eviction import Watcher
from core.train.notices import Notice
from core.train.orphan import Attendance

_AGAIN = "Start the same command again; it goes on where this one stopped."


class Stop:
    """Holds the first reason a worker has to end; a notice that is withdrawn before it was obeyed is none.

    It is asked between steps and between batches of an evaluation, which is how a worker shows that it is alive.
    """

    def __init__(self, watcher: Watcher, attendance: Attendance | None = None, on_event: OnEvent = ignore) -> None:
        self._watcher = watcher
        self._attendance = attendance
        self._on_event = on_event
        self._told: str | None = None
        self._advised: Notice | None = None

    @property
    def asked(self) -> EdgekilnError | None:
        """The error to end with, None while there is no reason."""
        self._tell_trouble()
        if (notice := self._leaving()) is not None:
            return _error_of(notice)
        if self._attendance is None or (alone_s := self._attendance.alone_s()) <= self._attendance.allowed_s:
            return None
        problem = f"no supervisor for {alone_s:.3g} s > {self._attendance.allowed_s:g} s: the training stopped by itself"
        return Terminated(problem, remedy=_AGAIN)

    def is_asked(self) -> bool:
        """Say whether there is a reason."""
        return self.asked is not None

    def advises_save(self) -> bool:
        """Say, once each time a cloud recommends to leave this machine, that a checkpoint should be taken now."""
        notice = self._watcher.current()
        if notice is None or notice.leaves or notice == self._advised:
            return False
        self._advised = notice
        text = f"{notice.source} may soon take this machine away ({notice.kind}): a checkpoint is taken now"
        self._on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))
        return True

    def allows(self, save_s: float) -> bool:
        """Say whether a save of that length ends before the machine does."""
        return self._watcher.fits(save_s)

    def obey(self) -> None:
        """Tell what was asked for and raise it."""
        if (asked := self.asked) is None:
            return
        if (notice := self._leaving()) is not None:
            told = Leaving(stage=Stage.TRAIN, source=notice.source, way=notice.kind, deadline=notice.deadline)
            self._on_event(told)
        raise asked

    def _leaving(self) -> Notice | None:
        notice = self._watcher.current()
        return notice if notice is not None and notice.leaves else None

    def _tell_trouble(self) -> None:
        """Tell once that a cloud is not heard: an eviction would then come without a word."""
        trouble = self._watcher.trouble
        if trouble is not None and trouble != self._told:
            self._told = trouble
            text = f"eviction notices cannot be heard: {trouble}"
            self._on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))


def _error_of(notice: Notice) -> EdgekilnError:
    if notice.source == "SIGTERM":
        return Terminated("SIGTERM: the training stopped at its newest checkpoint", remedy=_AGAIN)
    by = f", by {notice.deadline:%H:%M:%S}Z" if notice.deadline else ""
    return Evicted(
        f"{notice.source} takes this machine away ({notice.kind}{by}): the training stopped at its newest checkpoint",
        remedy=_AGAIN,
    )
