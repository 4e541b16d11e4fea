"""Fetches a training's newest checkpoint from the store, the best one too, and what was written beside it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from core.contract import Stage
from core.errors import ArtifactError, ArtifactMissing, RemoteFailed
from core.events import Note, OnEvent
from core.files import write_atomic
from core.remote.home import MAX_PULLED_BYTES
from core.remote.pull import pull, pull_newest
from core.remote.store import Store
from core.train import checkpoints, retention, stored
from core.train.carrier import RECORDS
from core.train.checkpoints import Age
from core.train.stored import Stored
from core.workspace import MANIFEST


def fetch_newest(store: Store, staged: Path, quarantine: Path, on_event: OnEvent) -> None:
    """Put the newest sound checkpoint beside those here, where it is newer than they are, with all that belongs to it.

    Of two the one of more rollbacks is the newer: the other may have been abandoned. A broken one is told, and the one before it is taken. RemoteFailed when none lies here and the store cannot be asked.
    """
    try:
        _Fetching(store, staged, quarantine, on_event).newest()
    except RemoteFailed as error:
        if not checkpoints.all_in(staged / "checkpoints"):
            raise
        text = f"the store cannot say whether it has a newer checkpoint, the newest here is taken: {error.problem}"
        on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))


class _Fetching:
    def __init__(self, store: Store, staged: Path, quarantine: Path, on_event: OnEvent) -> None:
        self._store, self._staged, self._quarantine, self._on_event = store, staged, quarantine, on_event
        self._made = staged / "checkpoints"

    def newest(self) -> None:
        here = max(map(_age_here, checkpoints.all_in(self._made)), default=None)
        offered = [one for one in stored.newest_first(self._store, self._staged.name) if one.finished_at is not None]
        for one in offered:
            if here is not None and self._age_there(one) <= here:
                return
            if self._take(one):
                self._records_of(one)
                self._best_of(offered)
                text = f"the checkpoint of step {_step_of(one)} was fetched from {self._store.where}"
                self._on_event(Note(stage=Stage.TRAIN, text=text))
                return

    def _age_there(self, one: Stored) -> Age:
        name = f"{stored.checkpoint(self._staged.name, one.name)}/{MANIFEST}"
        try:
            manifest, _ = self._store.get(name, checkpoints.MAX_MANIFEST_BYTES)
            return checkpoints.age_by(manifest, name)
        except ArtifactError:  # told once it is taken
            return 0, _step_of(one)

    def _take(self, one: Stored) -> bool:
        """Fetch a checkpoint and say whether it is sound; another one of its step makes way."""
        target = self._made / one.folder
        if target.exists() and _is(target, one):
            return True
        former = self._staged / "former" / one.folder
        if target.exists():
            former.parent.mkdir(parents=True, exist_ok=True)
            target.rename(former)
        sound = self._pull(one, target)
        if former.exists() and not sound:
            former.rename(target)
        shutil.rmtree(former.parent, ignore_errors=True)
        return sound

    def _pull(self, one: Stored, target: Path) -> bool:
        try:
            name = stored.checkpoint(self._staged.name, one.name)
            pull(self._store, name, target, max_bytes=MAX_PULLED_BYTES, stage=Stage.TRAIN, on_event=self._on_event)
            checkpoints.verify(target)
        except ArtifactError as error:
            if target.exists():
                self._quarantine.mkdir(parents=True, exist_ok=True)
                target.rename(self._quarantine / f"train-{one.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
            text = f"{one.name} in {self._store.where} is passed over: {error.problem}"
            self._on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))
            return False
        return True

    def _records_of(self, one: Stored) -> None:
        """Take over what the training had written by then; a checkpoint is whole without it."""
        scratch = self._staged / "records"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            below = stored.beside(self._staged.name, one.name)
            folder = pull_newest(
                self._store, below, scratch, max_bytes=MAX_PULLED_BYTES, stage=Stage.TRAIN, on_event=self._on_event
            )
        except ArtifactMissing:  # a broken one was told; a training that had written nothing has none
            return
        places = {
            **{name: self._staged / "content" / name for name in RECORDS},
            retention.SCORES: self._made / retention.SCORES,
        }
        for name, place in places.items():
            if (folder / name).is_file():
                write_atomic(place, (folder / name).read_bytes())
        shutil.rmtree(scratch)

    def _best_of(self, offered: list[Stored]) -> None:
        """Fetch the checkpoint with the lowest held-out loss so far: the training may end with its adapter."""
        scores = retention.scores(self._made)
        best = min(scores, key=lambda step: (scores[step], step), default=None)
        for one in offered:
            if best is not None and _step_of(one) == best and self._take(one):
                return


def _age_here(checkpoint: Path) -> Age:
    try:
        return checkpoints.age_of(checkpoint)
    except ArtifactError:  # set aside once the training goes on
        return 0, checkpoints.step_of(checkpoint)


def _is(checkpoint: Path, one: Stored) -> bool:
    try:
        return stored.name_of(checkpoint) == one.name
    except FileNotFoundError:
        return False


def _step_of(one: Stored) -> int:
    return checkpoints.step_of(Path(one.folder))
