"""Checkpoints of a training: kept beside the stage's content, sealed, verified before use, the last two kept."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ArtifactError
from core.train import sealed

KEEP = 2  # the newest may turn out broken when it is needed; the one before is then taken
# what the trainer writes beside these (its arguments as a pickle, the tokenizer, a model card) nobody reads again
_STATE_FILES = frozenset(
    {
        "adapter_config.json",
        "adapter_model.safetensors",
        "optimizer.pt",
        "rng_state.pth",
        "scaler.pt",
        "scheduler.pt",
        "trainer_state.json",
    }
)
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Broken:
    """A checkpoint that did not verify, why, and where it was moved to."""

    step: int
    reason: str
    moved_to: Path


def keep(written: Path, checkpoints: Path, step: int, about: dict[str, str]) -> Path:
    """Seal a checkpoint the trainer wrote, verify it, rename it into place, and drop the ones that are too old."""
    for path in written.iterdir():
        if path.name not in _STATE_FILES:
            path.unlink()
    sealed.seal(written, {"step": str(step), **about})
    sealed.check(written)
    target = checkpoints / f"step-{step:08d}"
    if target.exists():
        shutil.rmtree(target)
    written.rename(target)
    for old in _all(checkpoints)[:-KEEP]:
        shutil.rmtree(old)
    return target


def newest_verified(checkpoints: Path, quarantine: Path) -> tuple[Path | None, list[Broken]]:
    """Return the newest checkpoint whose every file has its hash, and the broken ones that were moved out of its way."""
    broken: list[Broken] = []
    for folder in reversed(_all(checkpoints)):
        try:
            sealed.check(folder)
        except ArtifactError as error:
            target = quarantine / f"train-{folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
            folder.rename(target)
            broken.append(Broken(step_of(folder), error.problem, target))
        else:
            return folder, broken
    return None, broken


def step_of(checkpoint: Path) -> int:
    """Return the optimiser step a checkpoint was taken after."""
    return int(checkpoint.name.removeprefix("step-"))


def _all(checkpoints: Path) -> list[Path]:
    folders = checkpoints.iterdir() if checkpoints.is_dir() else []
    return sorted(folder for folder in folders if _NAME.fullmatch(folder.name))
