"""Runs a command and measures how long it took and how much memory its whole process tree held at most."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from core.contract import Limit, judge

ROOT = Path(__file__).parents[2]
_EVERY_S = 0.5


@dataclass(frozen=True)
class Measured:
    """What a command gave; `peak_gb` is in 10^9 bytes and counts shared pages once, None where nothing was sampled."""

    status: int | None
    seconds: float
    peak_gb: float | None
    stdout: str
    stderr: str


def edgekiln(*arguments: str) -> list[str]:
    """Return the argument list of a command as the installed program runs it."""
    return [str(Path(sys.executable).parent / "edgekiln"), *arguments]


def measure(
    argv: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, *, limit_s: float = 3600.0
) -> Measured:
    """Run to the end or to the limit, where status is None; output goes to files in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    peaks: list[float] = []
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as errors:
        began = time.perf_counter()
        child = subprocess.Popen(
            argv,
            stdout=out,
            stderr=errors,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        while (left := limit_s - (time.perf_counter() - began)) > 0:
            try:
                child.wait(min(_EVERY_S, left))
                break
            except subprocess.TimeoutExpired:
                peaks.append(_tree_gb(child.pid))
        seconds = time.perf_counter() - began
    status = child.poll()
    if status is None:
        _kill_tree(child)
    texts = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr")]
    return Measured(status, seconds, max(peaks, default=None), *texts)


def _kill_tree(child: subprocess.Popen[bytes]) -> None:
    """Kill what was started from it too: a train worker outlives its supervisor and would slow what is measured next."""
    for process in [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()


def _tree_gb(pid: int) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in tree:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e9


def reached(name: str, measured: float | None, limit: float) -> bool:
    """Say whether a figure is within its limit, with the evaluator that judges every gate."""
    metrics = {} if measured is None else {name: measured}
    return judge([Limit(metric=name, op="<=", value=limit)], metrics).passed
