"""A worker process that outlives whoever started it: started, followed, taken over by another process, ended.

Its folder holds what `core.worker_process.call` puts there, and a lock that is held for as long as the process runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from core.contract import Contract
from core.errors import WorkspaceLocked
from core.files import write_atomic
from core.process import Child, end_group, how_it_ended, signal_group, start, tail, worker_module
from core.worker_process import EventTail

Launch = Callable[[Path, int, bool], Child]

_LOCK, _PROCESS, _HEARD = "lock", "process.json", "heard"
_POLL_S = 0.05
_KILLED_WITHIN_S = 10.0


def module(name: str) -> Launch:
    """Return how a module is started as a worker: on a folder, with its lock, and ended with this process or not."""

    def launch(folder: Path, lock: int, outlives: bool) -> Child:
        env = {"PYTHONUNBUFFERED": "1", "EDGEKILN_PARENT": "" if outlives else str(os.getpid())}
        return start(worker_module(name, str(folder)), log=folder / "worker.log", env=env, pass_fds=(lock,))

    return launch


class Worker:
    """A worker that runs or has ended; `child` is None where another process started it."""

    def __init__(self, folder: Path, child: Child | None) -> None:
        self.folder = folder
        self._child = child

    def is_alive(self) -> bool:
        """Say whether it runs."""
        return _is_held(self.folder / _LOCK) if self._child is None else self._child.poll() is None

    def was_killed(self) -> bool:
        """Say whether a signal ended it, or nobody knows what did."""
        status = None if self._child is None else self._child.poll()
        return status is None or status < 0

    def how_it_ended(self) -> str:
        """Say how it ended, in a few words; the end of its log where it ended by itself."""
        status = None if self._child is None else self._child.poll()
        if status is None:
            return "the worker ended while nobody waited for it"
        said = f": {tail(self.folder / 'worker.log')}" if status >= 0 else ""
        return f"the worker ended with {how_it_ended(status)}{said}".rstrip(": ")

    def end(self, grace_s: float) -> None:
        """Ask it and what it started to end, and kill what is left after a grace; nothing happens when it has ended."""
        if self._child is not None:
            end_group(self._child, grace_s)
        elif self.is_alive() and (group := self._group()) is not None:
            signal_group(group, "SIGTERM")
            if not self._ends_within(grace_s):
                signal_group(group, "SIGKILL")
                self._ends_within(_KILLED_WITHIN_S)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return not self.is_alive()

    def _group(self) -> int | None:
        """Return the process group, None unless the process there is the one that was started."""
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            written = json.loads((self.folder / _PROCESS).read_bytes())
            if psutil.Process(written["pid"]).create_time() == written["created"]:
                return int(written["pid"])
        return None


def begin(folder: Path, request: Contract, launch: Launch, *, outlives: bool) -> Worker:
    """Start a worker in a folder of its own."""
    folder.mkdir(parents=True)
    write_atomic(folder / "request.json", request.model_dump_json().encode())
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = launch(folder, lock, outlives)
    finally:
        os.close(lock)  # the worker has inherited it; the kernel lets go when that one ends
    with contextlib.suppress(psutil.Error):  # it has ended already
        created = psutil.Process(child.pid).create_time()
        write_atomic(folder / _PROCESS, json.dumps({"pid": child.pid, "created": created}).encode())
    return Worker(folder, child)


def follow(worker: Worker, on_event: EventTail, on_tick: Callable[[], None], *, grace_s: float) -> None:
    """Hand its events on until it ends; whatever ends the waiting ends the worker, with a grace."""
    try:
        while worker.is_alive():
            on_event.forward()
            on_tick()
            time.sleep(_POLL_S)
    finally:
        worker.end(grace_s)
        on_event.forward()


def events_of(folder: Path, on_event: Callable[..., None]) -> EventTail:
    """Return a worker's events from where an earlier follower stopped; at most those of a moment come twice."""
    return EventTail(folder / "events.jsonl", on_event, heard=folder / _HEARD)


@contextmanager
def attending(path: Path) -> Iterator[None]:
    """Be the one who attends to some workers; WorkspaceLocked when another process does. A kill ends it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceLocked(
                f"{path} is held: another process attends to this training", remedy="Wait until it ends."
            ) from error
        yield


def is_attended(path: Path) -> bool:
    """Say whether some process attends to the workers of a lock."""
    return _is_held(path)


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)
