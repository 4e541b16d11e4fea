"""The only place that starts programs: argument lists, a log file each, a timeout, and the whole group is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from core.errors import ProcessFailed, ToolMissing

_TAIL_BYTES = 4000
GRACE_S = 5.0
_POLL_S = 0.05

OnTick = Callable[[], None]

Child = subprocess.Popen[bytes]


def run(
    argv: Sequence[str],
    *,
    log: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: Path | None = None,
    on_tick: OnTick | None = None,
    pass_fds: Sequence[int] = (),
    grace_s: float = GRACE_S,
) -> None:
    """Run a program to its end.

    `log` takes standard error, and standard output too unless `stdout` names a file for it; `env` is added to this
    process's environment; `on_tick` is called about 20 times a second; `pass_fds` are
    the file descriptors it inherits: that of a lock keeps it locked for as long as the program runs. ToolMissing when the program is not there,
    ProcessFailed on a non-zero status or after `timeout_s`; the program's whole group is ended in any case, by SIGKILL
    `grace_s` after SIGTERM.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors, (stdout or log).open("wb" if stdout else "ab") as output:
        child = _start(argv, env, cwd, (output.fileno(), errors.fileno()), pass_fds)
        try:
            status = _wait(child, timeout_s, on_tick)
        finally:
            end_group(child, grace_s)
    if status is None:
        raise ProcessFailed(
            f"{Path(argv[0]).name} ran > {timeout_s:g} s and was stopped\n{tail(log)}".rstrip(),
            remedy=f"Read {log}; raise the timeout if the machine is slow, then run the same command again.",
        )
    if status != 0:
        raise ProcessFailed(
            f"{Path(argv[0]).name} ended with {how_it_ended(status)}: {tail(log)}".rstrip(),
            remedy=f"Read {log}, mend what it names, then run the same command again.",
        )


@contextmanager
def beside(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    grace_s: float = GRACE_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside a block, in a session of its own, where Ctrl-C does not reach it; its group ends with the block.

    `log` takes what it prints; `pass_fds` are the file descriptors it inherits; SIGKILL comes `grace_s` after SIGTERM.
    ToolMissing as `run`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = _start(argv, env, None, (output.fileno(), output.fileno()), pass_fds)
    try:
        yield child
    finally:
        end_group(child, grace_s)


def start(argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()) -> Child:
    """Start a program that goes on when this process ends, in a session of its own; arguments as `run`, ToolMissing too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return _start(argv, env, None, (output.fileno(), output.fileno()), pass_fds)


def status_within(child: Child, within_s: float) -> int | None:
    """Return the status of a program that is beside a block, waiting for its end a while; None when it still runs."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(within_s)
    return child.returncode


def capture(argv: Sequence[str], *, timeout_s: float, env: Mapping[str, str] | None = None) -> str:
    """Run a short program and return what it printed on standard output; errors as `run`."""
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=_environment(env),
            check=False,
        )
    except FileNotFoundError as error:
        raise _missing(argv[0]) from error
    except subprocess.TimeoutExpired as error:
        raise ProcessFailed(
            f"{Path(argv[0]).name} ran > {timeout_s:g} s and was stopped", remedy="Run it by hand to see what it waits for."
        ) from error
    if done.returncode != 0:
        tail = (done.stderr or done.stdout)[-_TAIL_BYTES:].strip()
        raise ProcessFailed(
            f"{Path(argv[0]).name} ended with {how_it_ended(done.returncode)}: {tail}", remedy="Run it by hand to see why."
        )
    return done.stdout


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the argument list that runs a module with this interpreter; a file of the current folder never takes its place."""
    return [sys.executable, "-P", "-m", module, *arguments]


def worker_module(module: str, *arguments: str) -> list[str]:
    """Return the same for a module that imports torch (core/start.py)."""
    return python_module("core.start", module, *arguments)


def _start(
    argv: Sequence[str],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    streams: tuple[int, int],
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            env=_environment(env),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise _missing(argv[0]) from error


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(extra or {})}


def _missing(program: str) -> ToolMissing:
    return ToolMissing(f"the program {program} is not there", remedy=f"Install {Path(program).name} and run again.")


def _wait(child: subprocess.Popen[bytes], timeout_s: float, on_tick: OnTick | None) -> int | None:
    deadline = time.perf_counter() + timeout_s
    while (status := child.poll()) is None:
        if time.perf_counter() > deadline:
            return None
        if on_tick:
            on_tick()
        time.sleep(_POLL_S)
    if on_tick:
        on_tick()
    return status


def ended_by_signal(error: ProcessFailed) -> bool:
    """Say whether a signal ended the program that failed, rather than a status of its own or the timeout."""
    return " ended with signal SIG" in error.problem


def end_group(child: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """Ask a child's process group to end, kill what is left after a grace, and reap the child."""
    if child.poll() is None:
        signal_group(child.pid, "SIGTERM")
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    signal_group(child.pid, "SIGKILL")
    child.wait()


def signal_group(group: int, name: Literal["SIGTERM", "SIGKILL"]) -> None:
    """Send a signal to a process group, if there is one."""
    try:
        os.killpg(group, signal.Signals[name])
    except (ProcessLookupError, PermissionError):
        return


def how_it_ended(status: int) -> str:
    """Name a child's status."""
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"status {status}"


def tail(log: Path) -> str:
    """Return the last lines of a log in one."""
    data = log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
    return " | ".join(data[-3:])
