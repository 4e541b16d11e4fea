"""Runs probes: each a function in a process of its own with a hard timeout, all at once. What they read is judged elsewhere.

A library that segfaults, hangs or prints garbage is a reading with an error, never the end of the caller.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from core.contract import Contract, Stage
from core.errors import EdgekilnError
from core.events import OnEvent, Progress, ignore
from core.files import write_atomic
from core.process import run, worker_module
from core.worker_process import die_with_parent

_MAX_RESULT_BYTES = 16 << 20
_BURIAL_S = 8.0  # past a probe's timeout: the grace of a group's end, then a child that not even SIGKILL ends is left alone
_MAX_ERROR_CHARS = 600

Target = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
ProbeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$")]


class Probe(Contract):
    """What to read: `target` is `module:function`, a function of one JSON object that returns a Contract.

    `alone` is for one that measures: it runs when all others have ended, and by itself.
    """

    name: ProbeName
    target: Target
    argument: dict[str, Any] = {}
    timeout_s: float = Field(gt=0)
    alone: bool = False


class Reading(Contract):
    """What a probe gave: the JSON of its Contract, or the error: timeout, signal, exit status, garbage or exception."""

    name: str
    value: dict[str, Any] | None
    error: str | None
    seconds: float


class _Result(Contract):
    value: dict[str, Any] | None = None
    error: str | None = None


def run_probes(probes: Sequence[Probe], scratch: Path, on_event: OnEvent = ignore) -> dict[str, Reading]:
    """Run all probes in parallel, then those that run alone, and return a reading for each, by name.

    `scratch` takes each probe's log and result. The parallel ones end at the latest some seconds after the longest
    timeout. ValueError when two share a name.
    """
    if len({probe.name for probe in probes}) != len(probes):
        raise ValueError(f"two probes share a name: {sorted(probe.name for probe in probes)}")
    scratch.mkdir(parents=True, exist_ok=True)
    batches = [[probe for probe in probes if not probe.alone], *([probe] for probe in probes if probe.alone)]
    found: dict[str, Reading] = {}
    for batch in batches:
        tell = _counting(len(found), len(probes), on_event)
        found |= _side_by_side(batch, scratch, tell)
    return {probe.name: found[probe.name] for probe in probes}


def _counting(before: int, total: int, on_event: OnEvent) -> Callable[[int], None]:
    def tell(done: int) -> None:
        on_event(Progress(stage=Stage.ENV, task="probes", done=before + done, total=total, unit="probes"))

    return tell


def _side_by_side(probes: Sequence[Probe], scratch: Path, tell: Callable[[int], None]) -> dict[str, Reading]:
    arrived: SimpleQueue[Reading] = SimpleQueue()
    for probe in probes:
        # daemons, and nothing joins them: a child that hangs in the kernel must not keep this process from ending
        threading.Thread(target=_run_one, args=(probe, scratch, arrived), name=f"probe-{probe.name}", daemon=True).start()
    return _collect(probes, arrived, tell)


def _collect(probes: Sequence[Probe], arrived: SimpleQueue[Reading], tell: Callable[[int], None]) -> dict[str, Reading]:
    started = time.perf_counter()
    deadline = started + max((probe.timeout_s for probe in probes), default=0.0) + _BURIAL_S
    found: dict[str, Reading] = {}
    while len(found) < len(probes):
        try:
            reading = arrived.get(timeout=max(0.0, deadline - time.perf_counter()))
        except Empty:
            break
        found[reading.name] = reading
        tell(len(found))
    seconds = time.perf_counter() - started
    return {probe.name: found.get(probe.name) or _immortal(probe, seconds) for probe in probes}


def _immortal(probe: Probe, seconds: float) -> Reading:
    error = (
        f"ran > {probe.timeout_s:g} s and did not end when it was killed: it waits in the kernel, for a disk or a driver"
    )
    return Reading(name=probe.name, value=None, error=error, seconds=seconds)


def _run_one(probe: Probe, scratch: Path, arrived: SimpleQueue[Reading]) -> None:
    started = time.perf_counter()
    result, log = scratch / f"{probe.name}.json", scratch / f"{probe.name}.log"
    try:
        result.unlink(missing_ok=True)
        log.unlink(missing_ok=True)
        outcome = _call(probe, result, log)
    except (OSError, ValueError) as error:
        outcome = _Result(error=f"the probe could not be run: {_one_line(error)}")
    arrived.put(Reading(name=probe.name, value=outcome.value, error=outcome.error, seconds=time.perf_counter() - started))


def _call(probe: Probe, result: Path, log: Path) -> _Result:
    failure = None
    try:
        run(
            worker_module("core.env.probe", probe.target, json.dumps(probe.argument), str(result)),
            log=log,
            timeout_s=probe.timeout_s,
            env={"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "EDGEKILN_PARENT": str(os.getpid())},
        )
    except EdgekilnError as error:
        failure = _shortened(error.problem)
    told = _read(result)
    if failure is None:
        return told or _Result(error="it ended without a result")
    return told if told and told.error else _Result(error=failure)


def _read(path: Path) -> _Result | None:
    """Return a result file's content, None when there is none, an error when it is not what a child writes."""
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_RESULT_BYTES:
        return _Result(error=f"its result has > {_MAX_RESULT_BYTES} bytes")
    data = path.read_bytes()
    try:
        return _Result.model_validate_json(data)
    except ValidationError:
        return _Result(error=f"its result is garbage: {data[:80]!r}")


def _one_line(error: BaseException) -> str:
    text = " ".join((error.problem if isinstance(error, EdgekilnError) else str(error)).split())
    return _shortened(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_ERROR_CHARS else f"{text[: _MAX_ERROR_CHARS - 3]}..."


def main() -> None:
    """Run the child's side: `python -m core.env.probe TARGET ARGUMENT_JSON RESULT_PATH`."""
    target, argument, path = sys.argv[1:]
    die_with_parent()
    result = Path(path)
    sys.excepthook = _telling(result)
    module, _, function = target.partition(":")
    value = getattr(importlib.import_module(module), function)(json.loads(argument))
    if not isinstance(value, Contract):
        raise TypeError(f"{target} returned {type(value).__name__}, not a Contract")
    write_atomic(result, _Result(value=value.model_dump(mode="json")).model_dump_json().encode())


def _telling(
    result: Path,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)  # the whole of it lies in the log
        write_atomic(result, _Result(error=_one_line(error)).model_dump_json().encode())

    return tell


if __name__ == "__main__":
    main()
