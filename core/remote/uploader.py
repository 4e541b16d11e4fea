"""Pushes finished folders beside the work: a bounded queue, one thread, no end of tries while the store is out of reach."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from core.contract import Stage
from core.errors import ArtifactError, EdgekilnError, RemoteDiffers
from core.events import Event, Note, OnEvent, ignore
from core.remote.push import Pushed, Stopped, push
from core.remote.store import Store

_LONGEST_S = 60.0
_URGENT_S = 1.0  # between tries while somebody waits in flush
_STOP_S = 3.0  # for a request under way; what it sends is the next push's gain


def _no_matter(folder: Path, sent: bool) -> None:
    del folder, sent


class Uploader:
    """Keeps what `submit` promised until it is in the store, or is told as broken; the work goes on meanwhile.

    What a kill leaves is no loss: submit the folders that lie here again, what is there already is not sent. Events come from
    the uploader's own thread, and so does the call of `on_end` for a folder that was sent (True), or is not and will not be.
    """

    def __init__(
        self,
        store: Store,
        *,
        capacity: int = 8,
        stage: Stage | None = None,
        on_event: OnEvent = ignore,
        on_end: Callable[[Path, bool], None] = _no_matter,
    ) -> None:
        self._store, self._capacity, self._stage, self._on_event = store, capacity, stage, on_event
        self._on_end = on_end
        self._promised: OrderedDict[Path, str] = OrderedDict()
        self._failed: dict[Path, str] = {}
        self._change = threading.Condition()
        self._waiters = 0
        self._stop = threading.Event()
        self._sending: Path | None = None
        self._cut = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def __enter__(self) -> Uploader:
        """Return the running uploader."""
        return self

    def __exit__(self, *failure: object) -> None:
        """Stop at once; what is not in the store is told. Call `flush` first for the time there is."""
        self.close()

    def submit(self, folder: Path, name: str) -> bool:
        """Promise to push a folder to `name`; False, with a Note, when the queue is full or closed. Never waits."""
        folder = folder.resolve()
        with self._change:
            if folder in self._promised:
                return True
            full = len(self._promised) >= self._capacity
            if not full and not self._stop.is_set():
                self._failed.pop(folder, None)
                self._promised[folder] = name
                self._change.notify_all()
                return True
        why = f"{self._capacity} folders wait already" if full else "the uploader is closed"
        self._tell(f"{folder.name} is not uploaded: {why}", warn=True)
        return False

    def uploading(self, folder: Path) -> bool:
        """Whether a folder is promised and not yet in the store: it must not be deleted."""
        with self._change:
            return folder.resolve() in self._promised

    def is_sending(self, folder: Path) -> bool:
        """Whether a folder is the one that is on its way now."""
        with self._change:
            return folder.resolve() == self._sending

    def withdraw(self, folder: Path, *, begun: bool = True) -> bool:
        """Take a promise back and return whether there was one; one that is being sent only with `begun`, and ends soon."""
        folder = folder.resolve()
        with self._change:
            if folder not in self._promised or (folder == self._sending and not begun):
                return False
            if folder == self._sending:
                self._cut.set()
            del self._promised[folder]
            self._change.notify_all()
            return True

    def failed(self) -> dict[Path, str]:
        """Return the folders that can never be pushed as they are, and why."""
        with self._change:
            return dict(self._failed)

    def flush(self, timeout_s: float) -> tuple[Path, ...]:
        """Wait until all is pushed, trying often, and return what is not when the time is up."""
        until = time.monotonic() + timeout_s
        with self._change:
            self._waiters += 1
            self._change.notify_all()
            try:
                while self._promised and self._thread.is_alive() and (left := until - time.monotonic()) > 0:
                    self._change.wait(left)
            finally:
                self._waiters -= 1
            return tuple(self._promised)

    def close(self) -> tuple[Path, ...]:
        """Stop and return what is not in the store, told in a Note; it stays on this disk."""
        first = not self._stop.is_set()
        self._stop.set()
        with self._change:
            self._cut.set()
            self._change.notify_all()
        self._thread.join(_STOP_S if first else 0)
        with self._change:
            left = tuple(self._promised)
        if left and first:
            self._tell(f"not uploaded yet: {', '.join(folder.name for folder in left)}", warn=True)
        return left

    def _work(self) -> None:
        tries, told = 0, ""
        while (job := self._following()) is not None:
            try:
                done = self._push(*job)
            except EdgekilnError as error:
                tries += 1
                if error.code != told:
                    text = f"{job[0].name} is uploaded later, the work goes on: {error.problem}. {error.remedy}"
                    self._tell(text, warn=True)
                told = error.code
                self._pause(tries)
            else:
                if done is not None:
                    self._settle(job[0], None, done, after=tries)
                    tries, told = 0, ""

    def _push(self, folder: Path, name: str) -> Pushed | None:
        """Return what a push did, None where there is nothing to do for the folder any more; raises what another try may mend."""
        try:
            return push(self._store, folder, name, stage=self._stage, on_event=self._hand_on, stop=self._cut)
        except Stopped:
            self._forget(folder)
        except (ArtifactError, RemoteDiffers, OSError) as error:
            self._settle(folder, error.problem if isinstance(error, EdgekilnError) else str(error))
        except EdgekilnError:
            if not self._cut.is_set():
                with self._change:
                    self._sending = None
                raise
            self._forget(folder)
        return None

    def _forget(self, folder: Path) -> None:
        """Let go of a folder that was withdrawn while it was sent; one that was cut off by the end stays promised."""
        with self._change:
            self._sending = None
            withdrawn = folder not in self._promised
            self._change.notify_all()
        if withdrawn:
            self._on_end(folder, False)  # noqa: FBT003 - as whoever listens is always called

    def _following(self) -> tuple[Path, str] | None:
        with self._change:
            while not self._promised and not self._stop.is_set():
                self._change.wait()
            if self._stop.is_set():
                return None
            job = next(iter(self._promised.items()))
            self._sending, self._cut = job[0], threading.Event()
            return job

    def _settle(self, folder: Path, why: str | None, done: Pushed | None = None, after: int = 0) -> None:
        if why is not None:
            self._tell(f"{folder.name} cannot be uploaded: {why}", warn=True)
        elif done is not None:
            tries = f" after {after} tries that failed" if after else ""
            text = f"{folder.name} is in {self._store.where}: {done.bytes_sent / 1e6:.1f} MB in {done.seconds:.1f} s{tries}"
            self._tell(text)
        with self._change:
            self._sending = None
            self._promised.pop(folder, None)
            if why is not None:
                self._failed[folder] = why
            self._change.notify_all()
        self._on_end(folder, done is not None)

    def _pause(self, tries: int) -> None:
        """Wait for the next try: twice as long each time, with jitter, and shorter as soon as somebody waits in flush."""
        began = time.monotonic()
        length_s = random.uniform(0.5, 1.0) * min(_LONGEST_S, 2.0**tries)  # noqa: S311 - spreads retries, guards nothing
        with self._change:
            while not self._stop.is_set():
                limit_s = min(length_s, _URGENT_S) if self._waiters else length_s
                if (left := began + limit_s - time.monotonic()) <= 0:
                    return
                self._change.wait(left)

    def _tell(self, text: str, *, warn: bool = False) -> None:
        self._hand_on(Note(stage=self._stage, text=text, level="warning" if warn else "info"))

    def _hand_on(self, event: Event) -> None:
        with contextlib.suppress(EdgekilnError, OSError):  # a sink that fails must not end the uploads
            self._on_event(event)
