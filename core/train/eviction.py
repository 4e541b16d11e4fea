"""The one watcher that knows every notice that this machine or process will end, and its deadline.

What each cloud says, where and how often, is in notices.py.
"""

from __future__ import annotations

import signal
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from core.env.machine.cloud import provider_here
from core.metadata_service import LINK_LOCAL, MetadataService
from core.train.limits import EvictionLimits
from core.train.notices import SOURCES, TROUBLE, Notice, Source

_JOIN_S = 5.0
_Value = TypeVar("_Value")


class Watcher:
    """Hears SIGTERM and polls the cloud that firmware names, in a thread of its own; off a cloud there is no thread.

    Use it as a context manager in the main thread: signals are heard nowhere else. Nothing it does while it watches raises:
    a service that is silent or talks nonsense leaves the last notice as it was, and `trouble` says so.
    """

    def __init__(self, limits: EvictionLimits, root: Path = Path("/")) -> None:
        self._limits = limits
        self.cloud = _cloud(limits, root)
        self._source: Source | None = SOURCES[self.cloud]() if self.cloud else None
        self._address = urlsplit(limits.metadata_url).netloc if limits.metadata_url else LINK_LOCAL
        self._service = MetadataService(self._address)
        self._heard: tuple[Notice | None, ...] = ()
        self._troubles: tuple[str | None, ...] = ()
        self._sigterm: Notice | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._on_sigterm)
        if self._source is not None:
            self._heard = self._troubles = (None,) * len(self._source.questions)
            self._thread = threading.Thread(target=self._poll, args=(self._source,), name="eviction-notices", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed.set()
        self._service.cut()
        if self._thread is not None:
            self._thread.join(_JOIN_S)
        signal.signal(signal.SIGTERM, self._before)

    def current(self) -> Notice | None:
        """Return the notice that leaves least time; None when there is none or it was withdrawn."""
        horizon = datetime.now(UTC) + timedelta(seconds=self._limits.within_s)
        known = [notice for notice in (self._sigterm, *self._heard) if notice is not None]
        near = [notice for notice in known if notice.deadline is None or notice.deadline <= horizon]
        return min(near, key=_urgency, default=None)

    def fits(self, save_s: float) -> bool:
        """Say whether a save of that length ends before the deadline with the margin to spare; True without a deadline."""
        notice = self.current()
        if notice is None or notice.deadline is None:
            return True
        left_s = (notice.deadline - datetime.now(UTC)).total_seconds()
        return save_s + self._limits.margin_s <= left_s

    def acknowledge(self) -> bool:
        """Tell the cloud, once everything is saved, that the machine may go; say whether it wanted to know and was told.

        Takes two seconds at most.
        """
        if self._source is None:
            return False
        try:
            return self._source.acknowledge(MetadataService(self._address))
        except TROUBLE:
            return False

    def ask_once(self) -> bool:
        """Ask the cloud every question once, without watching; say whether it answered all in time."""
        if self._source is None:
            return False
        self._heard = self._troubles = (None,) * len(self._source.questions)
        asking = threading.Thread(target=self._ask_all, args=(self._source,), daemon=True)
        asking.start()
        asking.join(_JOIN_S)
        self._service.cut()
        return not asking.is_alive() and self.trouble is None

    @property
    def trouble(self) -> str | None:
        """Say why a question to the cloud was not answered last time, None while all are."""
        return next((trouble for trouble in self._troubles if trouble is not None), None)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._sigterm is None:
            at = datetime.now(UTC)
            deadline = at + timedelta(seconds=self._limits.sigterm_grace_s)
            self._sigterm = Notice(source="SIGTERM", at=at, deadline=deadline, kind="sigterm")

    def _poll(self, source: Source) -> None:
        while not self._closed.is_set():
            began = time.perf_counter()
            self._ask_all(source)
            self._closed.wait(max(0.0, source.interval_s - (time.perf_counter() - began)))

    def _ask_all(self, source: Source) -> None:
        for index in range(len(source.questions)):
            self._ask(source, index)

    def _ask(self, source: Source, index: int) -> None:
        try:
            notice = source.questions[index](self._service)
        except TROUBLE as error:
            trouble = f"{self.cloud} at {self._address}: {str(error) or type(error).__name__}"
            self._troubles = _replaced(self._troubles, index, trouble)
        else:
            self._heard = _replaced(self._heard, index, notice)
            self._troubles = _replaced(self._troubles, index, None)


def acknowledge(limits: EvictionLimits, root: Path = Path("/")) -> bool:
    """Tell the cloud that the machine may go, from another process than the one that watched; as `Watcher.acknowledge`.

    The cloud is asked once what it has announced. Takes seven seconds at most.
    """
    watcher = Watcher(limits, root)
    return watcher.acknowledge() if watcher.ask_once() else False


def _cloud(limits: EvictionLimits, root: Path) -> str | None:
    if limits.cloud != "auto":
        return None if limits.cloud == "none" else limits.cloud
    provider, _ = provider_here(root)
    return provider if provider in SOURCES else None


def _urgency(notice: Notice) -> tuple[bool, datetime]:
    return not notice.leaves, notice.deadline or datetime.max.replace(tzinfo=UTC)


def _replaced(values: tuple[_Value, ...], index: int, value: _Value) -> tuple[_Value, ...]:
    return (*values[:index], value, *values[index + 1 :])
