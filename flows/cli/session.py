"""What every command shares: the global options, the log file, and the two ways out: text for people, JSON for programs."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

    from core.events import OnEvent
    from core.report.table import Table
    from core.workspace import Workspace

_LOG_BYTES = 5 << 20
_NARROWEST = 60  # characters
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s %(message)s"


def named_path(_type: type, tokens: Sequence[Token]) -> Path:
    """Read a path of the command line: one that is empty is refused, `~` is the user's home."""
    if not (named := tokens[0].value):
        raise ValueError("the path is empty")
    return _at_home(Path(named))


def _at_home(path: Path) -> Path:
    from core.errors import UsageError

    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path}: no such user's home is known", remedy="Write the path out.") from error


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every command."""

    workspace: Annotated[Path | None, Parameter(converter=named_path)] = None
    "Folder for everything that is made; else EDGEKILN_WORKSPACE, else ./.edgekiln"
    json: Annotated[bool, Parameter(negative=())] = False
    "One JSON document on standard output, everything else on standard error"
    verbose: Annotated[bool, Parameter(alias="-v", negative=())] = False
    "Tell more on standard error"
    log_file: Annotated[Path | None, Parameter(converter=named_path)] = None
    "Also write log lines to this file; it rotates"


@dataclass(frozen=True, kw_only=True)
@Parameter(name="*")
class Choice:
    """Options of every command that runs stages."""

    profile: str = "demo"
    "A shipped profile, one of your own, or a YAML file"
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    "Change a field: --set train.lora.r=32; may be repeated"
    force: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    "Do a stage and those after it again although finished results are there"


def begin(common: Common) -> OnEvent:
    """Open the log file and return the sink that shows events on the terminal."""
    from flows.cli.terminal import Terminal

    logger = logging.getLogger("core")
    logger.setLevel(logging.DEBUG if common.verbose else logging.INFO)
    if common.log_file is not None:
        _log_to(common.log_file)
    return Terminal(verbose=common.verbose)


def _log_to(path: Path) -> None:
    from core.errors import UsageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=3, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--log-file {path}: {error.strerror}", remedy="Name a file you may write.") from error
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    logging.getLogger("core").addHandler(handler)


def tree(common: Common, force: tuple[str, ...] = ()) -> Workspace:
    """Open the workspace, made where it is missing; UsageError for a stage that does not exist."""
    from core.config import workspace_root
    from core.contract import Stage, onward
    from core.errors import UsageError
    from core.workspace import open_workspace

    known = {stage.value for stage in Stage}
    if wrong := [name for name in force if name not in known]:
        raise UsageError(f"--force {wrong[0]} is no stage", remedy=f"Name one of {', '.join(Stage)}.")
    return open_workspace(_at_home(workspace_root(common.workspace)), onward(force))


def shelf(common: Common) -> Workspace:
    """Return the workspace for a command that only looks: nothing is created; ArtifactMissing where there is none."""
    from core.config import workspace_root
    from core.workspace import existing_workspace

    return existing_workspace(_at_home(workspace_root(common.workspace)))


def from_here(text: str) -> str:
    """Return a text with its paths as a person writes them: from the current folder, else from `~`."""
    here, home = str(Path.cwd()), os.path.expanduser("~")  # noqa: PTH111 - stays "~" for a user without home
    for folder, below, itself in ((here, "", "."), (home, "~/", "~")):
        if folder != "/":
            word = rf"(?<![^\s'\"=]){re.escape(folder)}"
            text = re.sub(rf"{word}(?![^\s'\",;])", itself, re.sub(rf"{word}/(?=[^\s/])", below, text))
    return text


def answer(common: Common, document: Any, text: str, *, exact: bool = False) -> None:
    """Print the answer on standard output: the text, or with --json the document.

    An exact text is for a program too: its paths are not shortened.
    """
    import json

    shown = text if exact else from_here(text)
    print(json.dumps(document, indent=1, ensure_ascii=False, default=str) if common.json else shown)


def answer_table(common: Common, table: Table) -> None:
    """Print a table, or with --json its document."""
    from core.report.render import render

    print(render(table, "json") if common.json else drawn(table))


def drawn(table: Table) -> str:
    """Return a table as text, as wide as the terminal; beside a terminal as wide as the renderer's default."""
    from core.report.render import DEFAULT_WIDTH, render

    rows = tuple(tuple(from_here(cell) if isinstance(cell, str) else cell for cell in row) for row in table.rows)
    told = {"title": from_here(table.title), "rows": rows, "notes": tuple(map(from_here, table.notes))}
    width = max(_NARROWEST, get_terminal_size((DEFAULT_WIDTH, 0)).columns)
    return render(table.model_copy(update=told), "text", width=width)


def may_write(output: Path, option: str = "-o") -> Path:
    """Return where a named answer goes; UsageError for a name that cannot be one. Asked before work that takes long."""
    from core.errors import UsageError

    special = output.exists() and not output.is_file()  # asked before a link is followed: /dev/stdout leads to no path
    target = output if special else Path(os.path.realpath(output))
    if target.is_dir():
        raise UsageError(f"{option} {str(output)!r} names a folder, no file", remedy="Name a file to write.")
    if not target.parent.is_dir():
        raise UsageError(
            f"{option} {output}: the folder {target.parent} is not there", remedy="Make it, or name another file."
        )
    if not os.access(target.parent, os.W_OK) and not special:
        raise UsageError(f"{option} {output}: {target.parent} may not be written", remedy="Name a file you may write.")
    return target


def write_named(output: Path, text: str, option: str = "-o") -> None:
    """Write an answer where a person named it: a regular file appears whole; a device, a pipe or a link keeps its place.

    UsageError for a name that cannot be written, a missing folder too: one that was mistyped is not made.
    """
    from core.errors import UsageError
    from core.files import disk_full_is_an_error, write_atomic

    data = f"{text.rstrip()}\n".encode()
    target = may_write(output, option)
    try:
        if target.exists() and not target.is_file():
            with disk_full_is_an_error(target), target.open("wb") as stream:
                stream.write(data)
        else:
            write_atomic(target, data)
    except OSError as error:
        raise UsageError(f"{option} {output}: {error.strerror}", remedy="Name a file you may write.") from error
