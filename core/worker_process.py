"""Calls a worker module in a process of its own: request in, events and a result out. Workers may import torch; callers never do."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from core import errors
from core.contract import Contract
from core.errors import EdgekilnError, ProcessFailed
from core.events import Event, OnEvent, parse_event
from core.files import write_atomic
from core.process import GRACE_S, python_module, run

Request = TypeVar("Request", bound=Contract)
Result = TypeVar("Result", bound=Contract)

_PR_SET_PDEATHSIG = 1


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
) -> Result:
    """Run `python -m module folder` and return its result.

    The folder takes `request.json`, `events.jsonl`, `worker.log` and `result.json`. The worker's own EdgekilnError is
    raised here again; ProcessFailed when it died without a word. A worker that is stopped has `grace_s` to end by itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("result.json", "failure.json", "events.jsonl"):
        (folder / name).unlink(missing_ok=True)
    write_atomic(folder / "request.json", request.model_dump_json().encode())
    tail = _EventTail(folder / "events.jsonl", on_event)
    try:
        run(
            python_module(module, str(folder)),
            log=folder / "worker.log",
            timeout_s=timeout_s,
            env={"PYTHONUNBUFFERED": "1", "EDGEKILN_PARENT": str(os.getpid())},
            on_tick=tail.forward,
            grace_s=grace_s,
        )
    except ProcessFailed:
        if (folder / "failure.json").exists():
            raise _read_failure(folder / "failure.json") from None
        raise
    finally:
        tail.forward()
    return result.model_validate_json((folder / "result.json").read_bytes())


class _EventTail:
    """Forwards whole lines that were added to an events file."""

    def __init__(self, path: Path, on_event: OnEvent) -> None:
        self._path = path
        self._on_event = on_event
        self._offset = 0

    def forward(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._on_event(parse_event(line))


def _read_failure(path: Path) -> EdgekilnError:
    failure = _Failure.model_validate_json(path.read_bytes())
    kind = getattr(errors, failure.kind, ProcessFailed)
    error: EdgekilnError = kind(failure.problem, remedy=failure.remedy)
    return error


def main(request: type[Request], work: Callable[[Request, Path, OnEvent], Contract]) -> None:
    """Run a worker's side: read the request, do the work, write the result; the process dies with its parent."""
    folder = Path(sys.argv[1])
    die_with_parent()
    with (folder / "events.jsonl").open("ab", buffering=0) as stream:

        def emit(event: Event) -> None:
            stream.write(event.model_dump_json().encode() + b"\n")

        try:
            result = work(request.model_validate_json((folder / "request.json").read_bytes()), folder, emit)
        except EdgekilnError as error:
            failure = _Failure(kind=type(error).__name__, problem=error.problem, remedy=error.remedy)
            write_atomic(folder / "failure.json", failure.model_dump_json().encode())
            sys.exit(error.exit_status)
        except ValidationError as error:
            sys.exit(f"{request.__name__}: {error}")
    write_atomic(folder / "result.json", result.model_dump_json().encode())


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux), so that kill -9 of a run leaves no worker behind."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = os.environ.get("EDGEKILN_PARENT")
    if parent and os.getppid() != int(parent):
        os.kill(os.getpid(), signal.SIGKILL)
