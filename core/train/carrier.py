"""Sends a training's checkpoints to the store beside it: the newest soon, the best for sure, and takes old ones away there.

What is sent is a folder of hard links: retention may delete, and a training that went back may replace, what it was made of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from core.contract import Stage
from core.errors import EdgekilnError, Interrupted, RemoteFailed, Terminated
from core.events import CheckpointSaved, CheckpointSent, Evaluated, Event, Leaving, Note, OnEvent, TrainingDecided
from core.remote.store import Store
from core.remote.uploader import Uploader
from core.train import checkpoints, retention, sealed, stored
from core.train.limits import EvictionLimits
from core.workspace import MANIFEST

RECORDS = ("decisions.jsonl", "metrics.jsonl")  # what a training has written that no checkpoint holds
_BESIDE = ".beside"
_MAX_RECORD_BYTES = 64 << 20
_STOP_S = 3.0  # for a person who waits after Ctrl-C; what is not sent lies here


def _nobody_else() -> None:
    """Find no other machine in the workspace."""


class Carrier:
    """A sink for the worker's events that sends what they tell of; use as a context.

    Nothing here fails the training. A checkpoint not yet begun makes way for a newer one: a slow store costs their number,
    never the newest for long. `check` raises RemoteLockLost when another machine took the workspace.
    """

    def __init__(
        self,
        store: Store,
        staged: Path,
        limits: EvictionLimits,
        on_event: OnEvent,
        check: Callable[[], None] = _nobody_else,
    ) -> None:
        self._store, self._staged, self._limits, self._on_event, self._check = store, staged, limits, on_event, check
        self._made = staged / "checkpoints"
        self._uploads = staged / "uploads"
        self._leaving: Leaving | None = None
        self._promised: dict[str, int] = {}  # by name, the step
        self._sent: set[str] = set()
        self._told: set[str] = set()
        shutil.rmtree(self._uploads, ignore_errors=True)
        self._uploader = Uploader(store, stage=Stage.TRAIN, on_event=self._tell_of_upload, on_end=self._end)

    def __enter__(self) -> Carrier:
        """Begin with the newest checkpoint that lies here: an earlier process may have died before it was sent."""
        self._send_newest()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Send the newest checkpoint of a training that did not end well, in the time there is."""
        with self._uploader:
            newest = self._send_newest() if error is not None else None
            for name in set(self._promised) - {newest}:
                self._uploader.withdraw(self._uploads / name)
                self._uploader.withdraw(self._uploads / f"{name}{_BESIDE}")
            if newest is not None:
                self._uploader.flush(self._left_s(error))
        shutil.rmtree(self._uploads, ignore_errors=True)

    def __call__(self, event: Event) -> None:
        """Hand an event of the worker on, and send the checkpoint it tells of."""
        self._on_event(event)
        match event:
            case CheckpointSaved():
                self._send(checkpoints.folder_of(self._made, event.step))
            case Evaluated():
                best = retention.best_of(self._made)
                if best is not None and checkpoints.step_of(best) == event.step:
                    self._send(best)
            case TrainingDecided(decision="rolled-back"):
                self._go_back()
            case Leaving():
                self._leaving = event
            case _:
                pass

    @property
    def newest_is_sent(self) -> bool:
        """Whether nothing is lost when this machine's disk goes now."""
        made = checkpoints.all_in(self._made)
        with contextlib.suppress(FileNotFoundError):
            return not made or stored.name_of(made[-1]) in self._sent
        return False

    def _left_s(self, error: BaseException | None) -> float:
        if self._leaving is not None and self._leaving.deadline is not None:
            left = self._leaving.deadline - datetime.now(UTC)
            return max(0.0, left.total_seconds() - self._limits.margin_s)
        by_hand = isinstance(error, Interrupted | Terminated) or not isinstance(error, Exception)
        return _STOP_S if by_hand and self._leaving is None else self._store.config.patience_s

    # --- what is promised

    def _send_newest(self) -> str | None:
        """Promise the newest checkpoint and return its name; None where there is none, or it is in the store."""
        made = checkpoints.all_in(self._made)
        name = self._send(made[-1]) if made else None
        return None if name in self._sent else name

    def _go_back(self) -> None:
        """Send the decision with the checkpoint it leads back to: another machine must not go on from those after it."""
        made = checkpoints.all_in(self._made)
        with contextlib.suppress(FileNotFoundError):
            self._sent -= {stored.name_of(path) for path in made[-1:]}
        self._send_newest()

    def _send(self, checkpoint: Path) -> str | None:
        """Promise a checkpoint in place of those that wait, but for the best one; return its name, None when it is gone."""
        try:
            name = stored.name_of(checkpoint)
            if name in self._promised or name in self._sent:
                return name
            self._link(checkpoint, self._uploads / name)
            beside = self._copy_records(self._uploads / f"{name}{_BESIDE}")
        except FileNotFoundError:  # a newer one took its place
            return None
        except (OSError, EdgekilnError) as error:
            self._tell_once(f"{checkpoint.name} is not sent: {error}")
            return None
        self._withdraw_those_that_wait()
        self._promised[name] = checkpoints.step_of(checkpoint)
        if beside is not None:  # before it, so that a checkpoint that is whole there has it
            self._uploader.submit(beside, stored.beside(self._staged.name, name, stored.digest_of(beside)))
        self._uploader.submit(self._uploads / name, stored.checkpoint(self._staged.name, name))
        return name

    def _withdraw_those_that_wait(self) -> None:
        best = retention.best_of(self._made)
        for name, step in list(self._promised.items()):
            beside = self._uploads / f"{name}{_BESIDE}"
            begun = self._uploader.is_sending(beside)  # what is begun is ended, or a slow store would never get one
            if begun or (best is not None and step == checkpoints.step_of(best)):
                continue
            if self._uploader.withdraw(self._uploads / name, begun=False):
                self._end(self._uploads / name, sent=False)
                self._uploader.withdraw(beside)

    def _link(self, checkpoint: Path, target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        names = sorted((path.name for path in checkpoint.iterdir()), key=lambda name: name == MANIFEST)
        for name in names:
            try:
                os.link(checkpoint / name, target / name)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without links
                shutil.copyfile(checkpoint / name, target / name)

    def _copy_records(self, target: Path) -> Path | None:
        """Seal copies of what the training has written so far; None where it has written nothing."""
        files = [self._staged / "content" / name for name in RECORDS] + [self._made / retention.SCORES]
        there = [path for path in files if path.is_file() and path.stat().st_size <= _MAX_RECORD_BYTES]
        shutil.rmtree(target, ignore_errors=True)
        if not there:
            return None
        target.mkdir(parents=True)
        for path in there:
            shutil.copyfile(path, target / path.name)
        sealed.seal(target, {"training": self._staged.name})
        return target

    # --- from the uploader's thread

    def _end(self, folder: Path, sent: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        step = self._promised.pop(folder.name, None)
        if step is None or not sent:
            return
        self._sent.add(folder.name)
        self._tell(CheckpointSent(step=step))
        try:
            self._check()  # what looks half sent may be under way from there
            self._thin()
        except RemoteFailed as error:
            self._tell_once(f"old checkpoints may stay in the store: {error.problem}")

    def _thin(self) -> None:
        here, best = [path.name for path in checkpoints.all_in(self._made)], retention.best_of(self._made)
        if here:
            named = best.name if best else None
            self._sent &= stored.thin(self._store, self._staged.name, here, named, set(self._promised))

    def _tell_of_upload(self, event: Event) -> None:
        """Hand on only what goes wrong: the rest is told by the step."""
        if isinstance(event, Note) and event.level == "warning":
            self._on_event(event)

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(Note(stage=Stage.TRAIN, text=text, level="warning"))

    def _tell(self, event: Event) -> None:
        with contextlib.suppress(EdgekilnError, OSError):  # a sink that fails must not end the uploads
            self._on_event(event)
