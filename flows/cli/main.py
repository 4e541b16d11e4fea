"""The command `edgekiln`: its commands, loaded when they are called, and the one place where errors become exit statuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from cyclopts import App, CycloptsError, Group

from core import __version__
from core.errors import BlockedByCheck, DiskFull, EdgekilnError, Interrupted, Terminated, UsageError
from core.printable import printable

app = App(
    name="edgekiln",
    version=__version__,
    suppress_keyboard_interrupt=False,  # the boundary below says how to go on
    help="From a file of prompts to a small language model that is proven good and fast on a Raspberry Pi.",
)
_COMMANDS = {
    "The whole job": {
        "run": ("run:run", "Run all seven stages and make the model current when its gates say yes"),
        "init": ("init:init", "Start a project of your own: ask a few questions, write a profile"),
        "status": ("look:status", "Show what lies in the workspace and which model is current"),
        "runs": ("look:list_runs", "List the runs, newest first"),
        "show": ("look:show", "Show an artifact or a run"),
        "trace": ("look:trace", "Show from what a result, an artifact or a model was made"),
        "models": ("look:models", "List the teachers and students that are known"),
    },
    "Stages": {
        "env": ("env:app", "Check what this machine can do"),
        "data": ("data:app", "Validate a file of prompts; its card, its versions, its review"),
        "label": ("stages:label", "Let the teacher answer the prompts"),
        "train": ("stages:train", "Train the student"),
        "export": ("stages:export", "Merge, convert and quantise the student"),
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
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit status; every error is two lines on standard error."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        refuse_windows(os.name)
        app(list(argv), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
    except SystemExit as asked:
        return asked.code if isinstance(asked.code, int) else 0
    except BaseException as error:  # noqa: BLE001 - the one boundary: nothing may pass it untold
        return _tell(error, argv)
    return 0


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
        print(printable(str(known)), file=sys.stderr, flush=True)
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
        case KeyboardInterrupt():
            return Interrupted("Ctrl-C: stopped, what is finished is kept", remedy=again)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return DiskFull(f"no space left: {error}", remedy=f"Free some space. {again}")
    if type(error).__name__ == "TerminationSignal":  # Prefect's own, named so that Prefect need not be imported
        return Terminated("SIGTERM: stopped, what is finished is kept", remedy=again)
    return _unexpected(error)


def _words(argv: Sequence[str]) -> list[str]:
    return [word for word in argv[:1] if any(word in group for group in _COMMANDS.values())]


def _unexpected(error: BaseException) -> EdgekilnError:
    import traceback
    from datetime import UTC, datetime

    from core.config import cache_folder

    path = cache_folder() / "crash.log"
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {_command(sys.argv[1:])}\n")
            traceback.print_exception(error, file=stream)
    first = (str(error).splitlines() or [""])[0]
    return EdgekilnError(f"unexpected {type(error).__name__}: {first}", remedy=f"This is a mistake in edgekiln; see {path}")


if __name__ == "__main__":
    main()
