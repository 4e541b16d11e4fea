"""Calls a worker module in a process of its own: request in, events and a result out. Workers may import torch; callers never do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from core import errors
from core.contract import Contract
from core.errors import EdgekilnError, ProcessFailed
from core.events import Event, OnEvent, parse_event
from core.files import write_atomic, write_whole
from core.process import GRACE_S, beside, run, status_within, worker_module
from core.start import imported

Request = TypeVar("Request", bound=Contract)
Result = TypeVar("Result", bound=Contract)

_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05


class _Failure(Contract):
    kind: str
    problem: str
    remedy: str


def call(
    module: str,
    request: Contract,
    result: type[Result],
    folder: Path,
    on_event: OnEvent,
    *,
    timeout_s: float,
    grace_s: float = GRACE_S,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run `python -m module folder` and return its result.

    The folder takes `request.json`, `events.jsonl`, `worker.log` and `result.json`. The worker's own EdgekilnError is
    raised here again; ProcessFailed when it died without a word. A worker that is stopped has `grace_s` to end by itself.
    `env` is added to its environment: a secret goes there, never into the request.
    """
    _prepare(folder, request)
    tail = EventTail(folder / "events.jsonl", on_event)
    try:
        run(
            worker_module(module, str(folder)),
            log=folder / "worker.log",
            timeout_s=timeout_s,
            env={"PYTHONUNBUFFERED": "1", "EDGEKILN_PARENT": str(os.getpid()), **(env or {})},
            on_tick=tail.forward,
            grace_s=grace_s,
        )
    except ProcessFailed:
        if (failure := failure_in(folder)) is not None:
            raise failure from None
        raise
    finally:
        tail.forward()
    return result.model_validate_json((folder / "result.json").read_bytes())


def call_together(
    module: str,
    requests: Sequence[tuple[Contract, Path, Mapping[str, str]]],
    result: type[Result],
    on_event: OnEvent,
    *,
    grace_s: float = GRACE_S,
) -> list[Result | None]:
    """Run `python -m module folder` for every request at once and return the results; None for one that died without a word.

    A request comes with its worker's folder, as that of `call`, and variables for its environment. The first that fails with
    an error of its own ends the others, and the error is raised here.
    """
    with ExitStack() as stack:
        workers = []
        for request, folder, env in requests:
            _prepare(folder, request)
            told = {"PYTHONUNBUFFERED": "1", "EDGEKILN_PARENT": str(os.getpid()), **env}
            argv = worker_module(module, str(folder))
            child = stack.enter_context(beside(argv, log=folder / "worker.log", env=told, grace_s=grace_s))
            workers.append((child, folder, EventTail(folder / "events.jsonl", on_event)))
        running = workers
        while running:
            ended = [worker for worker in running if status_within(worker[0], 0) is not None]
            for _, _, tail in running:
                tail.forward()
            for _, folder, _ in ended:
                if (failure := failure_in(folder)) is not None:
                    raise failure
            running = [worker for worker in running if worker not in ended]
            time.sleep(_POLL_S)
    return [_result_of(folder, result) for _, folder, _ in requests]


def _prepare(folder: Path, request: Contract) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "failure.json", "events.jsonl"):
        (folder / name).unlink(missing_ok=True)
    write_atomic(folder / "request.json", request.model_dump_json().encode())


def _result_of(folder: Path, result: type[Result]) -> Result | None:
    path = folder / "result.json"
    return result.model_validate_json(path.read_bytes()) if path.exists() else None


class EventTail:
    """Forwards whole lines that were added to an events file; `heard` is a file that keeps how far it came."""

    def __init__(self, path: Path, on_event: OnEvent, heard: Path | None = None) -> None:
        self._path = path
        self._on_event = on_event
        self._heard = heard
        self._offset = int(heard.read_bytes() or b"0") if heard is not None and heard.exists() else 0

    def forward(self) -> None:
        """Forward what was added since the last time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            self._offset += len(line)
            self._on_event(parse_event(line))
            if self._heard is not None:
                _overwrite(self._heard, b"%020d" % self._offset)


def _overwrite(path: Path, data: bytes) -> None:
    """Put bytes in place of as many; a kill leaves the old ones or the new."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(handle, data, 0)
    finally:
        os.close(handle)


def failure_in(folder: Path) -> EdgekilnError | None:
    """Return the error a worker ended with, as it wrote it down, None where it did not."""
    path = folder / "failure.json"
    if not path.exists():
        return None
    failure = _Failure.model_validate_json(path.read_bytes())
    kind = getattr(errors, failure.kind, ProcessFailed)
    error: EdgekilnError = kind(failure.problem, remedy=failure.remedy)
    return error


def main(request: type[Request], work: Callable[[Request, Path, OnEvent], Contract]) -> None:
    """Run a worker's side: read the request, do the work, write the result; the process dies with its parent, if it has one.

    Of several processes only the first tells events and writes the result; any that fails says why.
    """
    folder = Path(sys.argv[1])
    die_with_parent()
    imported()
    is_first = rank() == 0
    with (folder / "events.jsonl").open("ab", buffering=0) as stream:

        def emit(event: Event) -> None:
            if is_first:
                write_whole(stream.fileno(), event.model_dump_json().encode() + b"\n")

        try:
            result = work(request.model_validate_json((folder / "request.json").read_bytes()), folder, emit)
        except EdgekilnError as error:
            failure = _Failure(kind=type(error).__name__, problem=error.problem, remedy=error.remedy)
            if is_first or not (folder / "failure.json").exists():
                write_atomic(folder / "failure.json", failure.model_dump_json().encode())
            sys.exit(error.exit_status)
        except ValidationError as error:
            sys.exit(f"{request.__name__}: {error}")
    if is_first:
        write_atomic(folder / "result.json", result.model_dump_json().encode())


def rank() -> int:
    """Return which of the processes of one worker this is, counted from 0."""
    return int(os.environ.get("RANK", "0"))


def ranks() -> int:
    """Return how many processes the worker has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def adopt() -> None:
    """Let the workers that this process starts die with it, and take no module from the folder they are started in."""
    os.environ |= {"EDGEKILN_PARENT": str(os.getpid()), "PYTHONSAFEPATH": "1"}


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux), so that kill -9 of a run leaves no worker behind.

    A worker that is to outlive its parent is started with an empty EDGEKILN_PARENT (attended_worker.py).
    """
    parent = os.environ.get("EDGEKILN_PARENT")
    if not sys.platform.startswith("linux") or parent == "":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
