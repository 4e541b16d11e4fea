"""The command `edgekiln`: its commands, loaded when they are called, and the one place where errors become exit statuses."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from cyclopts import App, CycloptsError, Group

from core import __version__
from core.errors import (
    BlockedByCheck,
    DiskFull,
    EdgekilnError,
    EnvironmentFault,
    Terminated,
    ToolMissing,
    UsageError,
)
from core.report.visible import visible
from core.stopping import stop_of

_CRASH_LOG_BYTES = 1_000_000
# Python's own 700 lets the collector run while thousands of classes are made that stay: half a second of a run's start
_COLLECT_AFTER = (50_000, 20, 20)
_ROOMS = {"core", "tasks", "flows", "configs"}  # an import that fails in there is our mistake

app = App(
    name="edgekiln",
    version=__version__,
    suppress_keyboard_interrupt=False,  # the boundary below says how to go on
    help="From a file of prompts to a small language model that is proven good and fast on a Raspberry Pi.",
)
_COMMANDS = {
    "The whole job": {
        "run": ("run:run", "Run all seven stages and make the model current when its gates say yes"),
        "search": ("search:search", "Search the training settings that the student learns best with"),
        "init": ("init:init", "Start a project of your own: ask a few questions, write a profile"),
        "status": ("look:status", "Show what lies in the workspace and which model is current"),
        "runs": ("look:list_runs", "List the runs, newest first"),
        "show": ("look:show", "Show an artifact or a run"),
        "trace": ("look:trace", "Show from what a result, an artifact or a model was made"),
        "compare": ("compare:compare", "Hold models against each other on the same prompts"),
        "models": ("models:app", "List what this workspace has produced; the known teachers and students"),
    },
    "Stages": {
        "env": ("env:app", "Check what this machine can do"),
        "data": ("data:app", "Validate a file of prompts; its card, its versions, its review"),
        "label": ("label:app", "Let the teacher answer the prompts; serve a teacher where there is no endpoint"),
        "train": ("train:app", "Train the student; the presets for it"),
        "export": ("export:app", "Merge, convert and quantise the student; what each file is worth; publish them"),
        "bench": ("stages:bench", "Measure the quantisations on the device"),
        "ingest": ("stages:ingest", "Write the measurements into the database"),
    },
    "Around it": {
        "config": ("configuration:app", "Check a profile, write its JSON Schema"),
        "db": ("db:app", "Look after the database"),
        "toolchain": ("toolchain:app", "Build and find llama.cpp"),
        "bug-report": ("bug_report:bug_report", "Write a file to attach to a report, without secrets"),
    },
}
for _title, _members in _COMMANDS.items():
    _group = Group.create_ordered(_title)
    for _name, (_path, _help) in _members.items():
        app.command(f"flows.cli.{_path}", name=_name, help=_help, group=_group, sort_key=list(_members).index(_name))


def main() -> None:
    """Run the command line and exit with its status."""
    gc.set_threshold(*_COLLECT_AFTER)
    _open_streams()
    sys.exit(run(sys.argv[1:]))


def _open_streams() -> None:
    """Let every text be written: to a stream that is closed, and in an encoding that lacks its characters."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this; a file opened later must not get its number
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - stays open
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit status; every error is two lines on standard error."""
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        refuse_windows(os.name)
        app(list(argv), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
    except SystemExit as asked:
        if isinstance(asked.__context__, BrokenPipeError):
            return 0  # Rich's way to end a page of help that nobody reads on
        return asked.code if isinstance(asked.code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the one boundary: nothing may pass it untold
        return _tell(error, argv)
    return 0


_ctrl_c: list[KeyboardInterrupt] = []


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    # remembered, because a library that calls back into Python may wrap it in an error of its own
    _ctrl_c.append(KeyboardInterrupt())
    raise _ctrl_c[-1]


def refuse_windows(system: str) -> None:
    """Raise BlockedByCheck on native Windows, where no command can work; `system` as `os.name` names it."""
    if system != "nt":
        return
    from core.env.machine.surroundings import windows_findings

    (finding,) = windows_findings("Windows")
    raise BlockedByCheck(f"{finding.code}: {finding.evidence}; {finding.cause}", remedy=finding.remedy)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise Terminated("SIGTERM: stopped, what is finished is kept", remedy=f"Go on with: {_command(sys.argv[1:])}")


def _command(argv: Sequence[str]) -> str:
    return shlex.join(["edgekiln", *argv])


def _tell(error: BaseException, argv: Sequence[str]) -> int:
    known = _known(error, argv)
    with contextlib.suppress(BrokenPipeError):
        print(visible(str(known), keep="\n\t"), file=sys.stderr, flush=True)
    return known.exit_status


def _known(error: BaseException, argv: Sequence[str]) -> EdgekilnError:
    """Return the error of the tree that stands for whatever came up."""
    again = f"Go on with: {_command(argv)}"
    match error:
        case EdgekilnError():
            return error
        case CycloptsError():
            text = " ".join(str(error).split())
            return UsageError(text, remedy=f"See {_command([*_words(argv), '--help'])}")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = error.filename or f"{_workspace(argv)}, or where the output goes"
            return DiskFull(f"no space left on the device that holds {where}", remedy=f"Free some space. {again}")
        case OSError(filename=str() as path):
            log = _keep(error)
            remedy = f"Make it readable and writable for you, or name another place. {again} (where it came up: {log})"
            return EnvironmentFault(f"{path}: {error.strerror}", remedy=remedy)
        case ImportError(name=str() as module) if module.partition(".")[0] not in _ROOMS:
            return _not_whole(error, module)
    return stop_of(_ctrl_c[0] if _ctrl_c else error, again) or _unexpected(error)


def _not_whole(error: ImportError, module: str) -> EdgekilnError:
    """Return the error for a package of this installation that is missing or broken: the doctor needs some of them itself."""
    return ToolMissing(
        f"the package {module.partition('.')[0]} is missing or broken: {' '.join(str(error).split())[:200]}",
        remedy=f"From another installation: edgekiln env fix --python {shlex.quote(sys.executable)}; or make this one anew:"
        " make setup",
    )


def _workspace(argv: Sequence[str]) -> str:
    """Return the workspace a command line names, as it names it."""
    from core.config import workspace_root

    words = [part for word in argv for part in word.split("=", maxsplit=1)]
    named = words[words.index("--workspace") + 1 :] if "--workspace" in words else []
    return str(workspace_root(named[0] if named else None))


def _words(argv: Sequence[str]) -> list[str]:
    return [word for word in argv[:1] if any(word in group for group in _COMMANDS.values())]


def _unexpected(error: BaseException) -> EdgekilnError:
    path = _keep(error)
    first = (str(error).splitlines() or [""])[0]
    return EdgekilnError(f"unexpected {type(error).__name__}: {first}", remedy=f"This is a mistake in edgekiln; see {path}")


def _keep(error: BaseException) -> str:
    """Write an error's traceback to the crash log, whose oldest lines make room, and say where it is; never raises."""
    import traceback
    from datetime import UTC, datetime

    try:
        from core.config import cache_folder

        path = cache_folder() / "crash.log"
    except (ImportError, EdgekilnError) as lost:
        return f"no crash log: {' '.join(str(lost).split())[:200]}"
    head = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {_command(sys.argv[1:])}\n"
    entry = (head + "".join(traceback.format_exception(error))).encode(errors="backslashreplace")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        earlier = path.read_bytes() if path.is_file() else b""
        path.write_bytes((earlier + entry)[-_CRASH_LOG_BYTES:])
    except OSError as lost:
        return f"{path}, which could not be written: {lost.strerror}"
    return str(path)


if __name__ == "__main__":
    main()
