"""`edgekiln train watch`: a training as it stands, from another terminal, live or once."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, shelf

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from core.train.watching import Seen, Watched
    from core.workspace import Workspace

_DEFAULT_COMMON = Common()
_LEAST_EVERY_S = 0.2
_NARROWEST, _LOWEST = 30, 12  # characters, lines
_ONCE_LINES = 40  # where no terminal says how high it is


def watch(
    training: str | None = None,
    *,
    once: Annotated[bool, Parameter(negative=())] = False,
    every: float = 1.0,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Watch a training: loss, gradient norm, held-out loss, what is left, memory, decisions. Ends when the training does.

    Parameters
    ----------
    training
        Its id or the beginning of it; none takes the one that was worked on last
    once
        Show how it stands now and end; so too where the output is no terminal
    every
        Seconds between two looks
    """
    from core.errors import UsageError

    begin(common)
    if not every >= _LEAST_EVERY_S:
        raise UsageError(f"--every {every:g} < {_LEAST_EVERY_S} s", remedy=f"Look at most every {_LEAST_EVERY_S} s.")
    workspace = shelf(common)
    if once or common.json or not sys.stdout.isatty():
        seen = _found(workspace, training).look()
        answer(common, json.loads(seen.model_dump_json()), _drawn(seen), exact=True)
    else:
        _live(workspace, training, every)


def _found(workspace: Workspace, training: str | None) -> Watched:
    from core.errors import ArtifactMissing
    from core.train.watching import Watched, named_training, newest_training

    name = named_training(workspace, training) if training is not None else newest_training(workspace)
    if name is None:
        raise ArtifactMissing(f"no training in {workspace.root}", remedy="Begin one: edgekiln train, or edgekiln run.")
    return Watched(workspace, name)


def _drawn(seen: Seen) -> str:
    """Return the view as text, without colour, as wide as the terminal."""
    from io import StringIO
    from shutil import get_terminal_size

    from rich.console import Console

    from flows.cli.watch_view import view

    width = max(_NARROWEST, get_terminal_size((80, 0)).columns)
    drawn = StringIO()
    console = Console(file=drawn, width=width, color_system=None, highlight=False, emoji=False)
    console.print(view(seen, width=width, height=_ONCE_LINES, ascii_only=not _shows_braille(sys.stdout.encoding)))
    return drawn.getvalue().rstrip("\n")


def _shows_braille(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "") == "utf8"


def _live(workspace: Workspace, training: str | None, every_s: float) -> None:
    """Draw again and again in the terminal's other screen, and leave the last view behind in the usual one."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, emoji=False)
    watched = _begun(console, workspace, training, every_s)
    seen = watched.look()
    with Live(_view(seen, console), console=console, screen=True, auto_refresh=False) as live:
        while not seen.is_over:
            time.sleep(every_s)
            seen = watched.look()
            live.update(_view(seen, console), refresh=True)
    console.print(_view(seen, console))


def _begun(console: Console, workspace: Workspace, training: str | None, every_s: float) -> Watched:
    """Return the training, waiting for its beginning while a process works in the workspace."""
    from core.errors import ArtifactMissing
    from core.runs import is_held

    is_told = False
    while True:
        try:
            return _found(workspace, training)
        except ArtifactMissing:
            if training is not None or not is_held(workspace):
                raise
        if not is_told:
            console.print("no training yet; waiting for the one that the process at work comes to")
            is_told = True
        time.sleep(every_s)


def _view(seen: Seen, console: Console) -> RenderableType:
    from flows.cli.watch_view import view

    size = console.size
    # one line less: a screen that is filled to its last character scrolls
    height, width = max(_LOWEST, size.height - 1), max(_NARROWEST, size.width)
    return view(seen, width=width, height=height, ascii_only=not _shows_braille(console.encoding))
