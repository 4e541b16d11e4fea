"""The terminal's sink: one line a stage on standard error, live bars where a terminal is, calm lines where none is."""

from __future__ import annotations

import logging
import threading
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from core import events
from core.contract import Severity, Stage
from core.events import Event
from core.report.visible import visible
from core.sinks import describe, level_of
from flows.cli.session import from_here

_CALM_S = 30.0
_SHOW_AFTER_S = 1.0
_MARKS = {logging.WARNING: "[yellow]![/] ", logging.ERROR: "[red]x[/] "}


class _Patient(Console):
    """A console whose reader may leave: the work goes on."""

    def on_broken_pipe(self) -> None:
        """Say nothing more; Rich's own way is to end the program."""
        self.quiet = True


class Terminal:
    """Shows events as they come."""

    def __init__(self, *, verbose: bool) -> None:
        self._console = _Patient(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        self._verbose = verbose
        self._lock = threading.RLock()
        self._live: Progress | None = None
        self._bars: dict[str, TaskID] = {}
        self._seen: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Show one event; bars are cleared whenever a stage or the run ends."""
        with self._lock:
            match event:
                case events.Progress():
                    self._move(event.task, event.done, event.total, event.unit)
                case events.TrainStep():
                    self._move(f"train, loss {event.loss:.3f}", event.step, event.steps, "steps")
                case events.TrialEnded():
                    self._drop(f"trial {event.number}")
                    self._line(event)
                case events.CheckpointSaved() | events.CheckpointSent() if not self._verbose:
                    pass
                case _:
                    self._line(event)

    def _line(self, event: Event) -> None:
        if isinstance(event, events.StageFinished | events.StageReused | events.RunFinished | events.RunFailed):
            self.clear()
        if (_told_later(event) or isinstance(event, events.StageStarted)) and not self._verbose:
            return  # the line at the end of a stage tells of it
        mark = _MARKS.get(level_of(event), "  ")
        self._console.print(mark + escape(from_here(describe(event))))

    def _move(self, task: str, done: float, total: float | None, unit: str) -> None:
        name = task.split(",", maxsplit=1)[0]
        now = time.monotonic()
        first = self._seen.setdefault(name, now)
        if not self._console.is_terminal:
            self._calm(name, now, f"{task}: {_number(done)}{'' if total is None else f'/{_number(total)}'} {unit}")
        elif now - first >= _SHOW_AFTER_S:
            self._bar(name, task, done, total)
        if total is not None and done >= total:
            self._drop(name)

    def _drop(self, name: str) -> None:
        self._seen.pop(name, None)
        if name in self._bars and self._live:
            self._live.remove_task(self._bars.pop(name))

    def _calm(self, name: str, now: float, text: str) -> None:
        if now - self._seen[name] >= _CALM_S:
            self._seen[name] = now
            self._console.print("  " + escape(visible(text)))

    def _bar(self, name: str, text: str, done: float, total: float | None) -> None:
        if self._live is None:
            columns = (
                TextColumn("  {task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._live = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
            self._live.start()
        if name not in self._bars:
            self._bars[name] = self._live.add_task(visible(text), total=total)
        self._live.update(self._bars[name], description=visible(text), completed=done, total=total)

    def clear(self) -> None:
        """Take the bars away."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
            self._live, self._bars, self._seen = None, {}, {}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"


def _told_later(event: Event) -> bool:
    """Say whether the error boundary will tell of an event: a failed run, a check that stops it."""
    if isinstance(event, events.Found):
        return event.stage is Stage.ENV and event.finding.severity is Severity.ERROR
    return isinstance(event, events.RunFailed)
