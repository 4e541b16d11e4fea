"""The lock on a workspace for as long as a job runs: taken again after an outage, lost only to another machine."""

from __future__ import annotations

import contextlib
import threading

from core.errors import EdgekilnError, RemoteLocked, RemoteLockLost
from core.events import Event, Note, OnEvent
from core.remote.lock import hold
from core.remote.store import Store

_LOOK_S = 0.5
_AGAIN_S = 5.0  # between tries to take it again
_SPARE_S = 5.0  # a dead holder's lock is free so long after its expiry: the slack of lock.py, and some tries
_END_S = 5.0  # for giving it up; what is not given up expires by itself


class Holding:
    """A workspace that no other machine works in; use as a context.

    While the store is out of reach the work goes on. A rival may take the lock meanwhile: `check` raises as soon as it is seen.
    """

    def __init__(self, store: Store, name: str, owner: str, on_event: OnEvent) -> None:
        self._store, self._name, self._owner, self._on_event = store, name, owner, on_event
        self._began, self._ended = threading.Event(), threading.Event()
        self._refused: EdgekilnError | None = None
        self._thread = threading.Thread(target=self._work, name="workspace-lock", daemon=True)

    def __enter__(self) -> Holding:
        """Take the lock, waiting until a dead holder's has expired; RemoteLocked names a living one, RemoteFailed."""
        self._thread.start()
        self._began.wait()
        if self._refused is not None:
            raise self._refused
        return self

    def __exit__(self, *failure: object) -> None:
        """Give it up."""
        self._ended.set()
        self._thread.join(_END_S)

    def check(self) -> None:
        """Raise RemoteLockLost when another machine took the lock."""
        if self._refused is not None:
            raise RemoteLockLost(
                f"another machine took the workspace: {self._refused.problem}",
                remedy="Let it go on there; what is finished here is kept. Run the same command again when it is done.",
            )

    def _work(self) -> None:
        wait_s = 0.0
        while not self._ended.is_set():
            try:
                self._hold_once(wait_s)
                wait_s = 0.0
            except RemoteLocked as error:
                if wait_s:
                    return self._refuse(error)
                wait_s = self._store.config.lock_expiry_s + _SPARE_S
                self._tell(Note(stage=None, text=f"{error.problem}: waiting for it"))
            except EdgekilnError as error:
                if not self._began.is_set():
                    return self._refuse(error)
                self._ended.wait(_AGAIN_S)
        return None

    def _hold_once(self, wait_s: float) -> None:
        """Hold the lock until the job ends or the lock is lost."""
        with hold(self._store, self._name, self._owner, wait_s=wait_s, on_event=self._tell) as lock:
            if self._began.is_set():
                self._tell(Note(stage=None, text=f"the lock {self._name} in {self._store.where} is taken again"))
            self._began.set()
            while lock.held and not self._ended.wait(_LOOK_S):
                pass

    def _refuse(self, error: EdgekilnError) -> None:
        self._refused = error
        if self._began.is_set():
            self._tell(Note(stage=None, text=f"another machine took the workspace: {error.problem}", level="warning"))
        self._began.set()

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(EdgekilnError, OSError):  # a sink that fails must not cost the lock
            self._on_event(event)
