"""Checkpoints of a training: written aside, renamed into place, verified before use. What to keep is in retention.py.

A manifest is written last. It holds the hash of every file and its own, so that no flipped bit anywhere goes unseen.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from core.contract import Contract, FileRef, Sha256
from core.errors import ArtifactError, ArtifactMissing, FileTampered, ManifestBroken
from core.files import canonical_json, digest_of, sync_folder, write_atomic
from core.train import sealed
from core.workspace import MANIFEST

DECISIONS = "decisions.jsonl"  # a file of a checkpoint: all that was decided before it was taken
_NAME = re.compile(r"step-(\d{8})")
MAX_MANIFEST_BYTES = 1 << 20
Age = tuple[int, int]  # rollbacks, step: the one of more rollbacks is the newer, whatever their steps


class Training(Contract):
    """Which training a checkpoint belongs to: a run of other settings, rows or student never goes on from it."""

    config: Sha256
    rows: Sha256
    student: str


class Position(Contract):
    """Where in the data a checkpoint stands: it is taken between optimiser steps, so no gradient is half accumulated.

    `micro_batches` are those of `epoch` that are used up, `rows` those of all epochs; `order_seed` gives their order.
    """

    epoch: int = Field(ge=0)
    micro_batches: int = Field(ge=0)
    rows: int = Field(ge=0)
    order_seed: int

    def is_at(self, other: Position) -> bool:
        """Say whether two positions are one place in the data, whatever the micro-batches that led there."""
        return (self.epoch, self.rows, self.order_seed) == (other.epoch, other.rows, other.order_seed)


class Taken(Contract):
    """When and where a checkpoint was taken; `rng` holds the digest of each random generator's state.

    One of fewer `rollbacks` may have been abandoned since.
    """

    step: int = Field(ge=0)
    training: Training
    position: Position
    rng: dict[str, Sha256]
    versions: dict[str, str]
    threads: int = Field(ge=1)
    device: str
    dtype: str
    rollbacks: int = Field(default=0, ge=0)

    @property
    def age(self) -> Age:
        """What orders two checkpoints of a training."""
        return self.rollbacks, self.step


class Manifest(Contract):
    """What a checkpoint is made of."""

    format: Literal[1] = 1
    taken: Taken
    files: tuple[FileRef, ...]


@dataclass(frozen=True)
class Broken:
    """A checkpoint that did not verify, why, and where it was moved to."""

    step: int
    reason: str
    moved_to: Path


def keep(written: Path, checkpoints: Path, taken: Taken) -> Path:
    """Make a written checkpoint durable, verify it, and rename it into place; one of the same step makes way."""
    manifest = Manifest(taken=taken, files=sealed.durable(written))
    write_atomic(written / MANIFEST, _bytes_of(manifest))
    verify(written)
    target = folder_of(checkpoints, taken.step)
    former = written.with_name(f"former-{written.name}")
    if target.exists():
        target.rename(former)
    written.rename(target)
    sync_folder(checkpoints)
    shutil.rmtree(former, ignore_errors=True)
    return target


def verify(folder: Path, training: Training | None = None) -> Manifest:
    """Return the manifest of a checkpoint whose every file is as it says and that belongs to the training, if one is named.

    ArtifactMissing, ManifestBroken or FileTampered says what is wrong.
    """
    manifest = _read(folder / MANIFEST)
    if wrong := _difference(folder, manifest.taken, training):
        raise ManifestBroken(f"{folder / MANIFEST}: {wrong}", remedy=sealed.REMEDY)
    named = {MANIFEST, *(ref.path for ref in manifest.files)}
    if strange := sorted(path.name for path in folder.iterdir() if path.name not in named):
        raise FileTampered(f"{folder / strange[0]} is not in the manifest", remedy=sealed.REMEDY)
    sealed.check_files(folder, manifest.files)
    return manifest


def age_of(folder: Path) -> Age:
    """Return what orders a checkpoint among others, by its manifest alone; ArtifactMissing or ManifestBroken."""
    return _read(folder / MANIFEST).taken.age


def age_by(manifest: bytes, where: str) -> Age:
    """Return what orders a checkpoint that lies elsewhere, by its manifest's bytes; ManifestBroken."""
    return _parsed(manifest, where).taken.age


def newest_verified(checkpoints: Path, quarantine: Path, training: Training) -> tuple[Path | None, list[Broken]]:
    """Return the newest sound checkpoint of a training, and the broken ones that were moved out of its way."""
    return first_sound(reversed(all_in(checkpoints)), quarantine, training)


def first_sound(folders: Iterable[Path], quarantine: Path, training: Training) -> tuple[Path | None, list[Broken]]:
    """Return the first checkpoint that verifies; those before it are moved to the quarantine."""
    broken: list[Broken] = []
    for folder in folders:
        try:
            verify(folder, training)
        except ArtifactError as error:
            target = quarantine / f"train-{folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            quarantine.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
            broken.append(Broken(step_of(folder), error.problem, target))
        else:
            return folder, broken
    return None, broken


def all_in(checkpoints: Path) -> list[Path]:
    """Return the folders of all checkpoints, the oldest first, none of them verified."""
    folders = checkpoints.iterdir() if checkpoints.is_dir() else []
    return sorted(folder for folder in folders if _NAME.fullmatch(folder.name))


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies, once there is one."""
    return checkpoints / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("step-"))


def _bytes_of(manifest: Manifest) -> bytes:
    said = manifest.model_dump(mode="json")
    return canonical_json({"manifest": said, "sha256": digest_of(said)})


def _read(path: Path) -> Manifest:
    try:
        with sealed.damage_is_tampering(path), path.open("rb") as stream:
            data = stream.read(MAX_MANIFEST_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactMissing(f"{path} is missing: the checkpoint was never finished", remedy=sealed.REMEDY) from error
    return _parsed(data, str(path))


def _parsed(data: bytes, where: str) -> Manifest:
    try:
        manifest = Manifest.model_validate(json.loads(data)["manifest"])
    except ValidationError as error:
        raise ManifestBroken(f"{where}: {error.errors()[0]['msg']}", remedy=sealed.REMEDY) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ManifestBroken(f"{where} is no manifest: {error}", remedy=sealed.REMEDY) from error
    if data != _bytes_of(manifest):  # it has one form only, so any other byte is damage
        raise ManifestBroken(f"{where} does not have the hash it states", remedy=sealed.REMEDY)
    return manifest


def _difference(folder: Path, taken: Taken, training: Training | None) -> str | None:
    if _NAME.fullmatch(folder.name) and step_of(folder) != taken.step:
        return f"it is of step {taken.step}, its folder of step {step_of(folder)}"
    if training is None:
        return None
    names = [name for name in Training.model_fields if getattr(taken.training, name) != getattr(training, name)]
    return f"it belongs to another training (other {', '.join(names)})" if names else None
