"""Which checkpoints stay: the newest ones, one from before a run of bad steps, the best, and the one in use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from core.files import write_atomic
from core.train import checkpoints
from core.train.detection import LONGEST_RUN
from core.workspace import MANIFEST

KEEP = 2  # the newest may turn out broken when it is needed; the one before is then taken
BEFORE_RUN = LONGEST_RUN + 1  # steps: a checkpoint so old was taken before the first step of a run that is told of now
SCORES = "held_out_losses.json"


def nobody(checkpoint: Path) -> bool:
    """Say that a checkpoint is in nobody's use."""
    del checkpoint
    return False


def thin(folder: Path, scratch: Path, in_use: Callable[[Path], bool] = nobody) -> list[Path]:
    """Delete the checkpoints nobody needs and return them: not the newest, not the best, none in use.

    `scratch` lies on the same file system and is emptied at the next start: what is half deleted is never met again.
    """
    found = checkpoints.all_in(folder)
    kept = {best_of(folder), *_before_a_run(found)}
    dropped = []
    for old in found[:-KEEP]:
        if old in kept or in_use(old) or not (old / MANIFEST).exists():  # what was never finished is set aside on resuming
            continue
        delete(old, scratch)
        dropped.append(old)
    return dropped


def _before_a_run(found: list[Path]) -> list[Path]:
    """Return the newest checkpoint that was taken before any run that may end now, and the one that will be it next."""
    bound = checkpoints.step_of(found[-1]) - BEFORE_RUN if found else 0
    before = [path for path in found if checkpoints.step_of(path) <= bound]
    return before[-1:] + found[len(before) : len(before) + 1]


def back_to(folder: Path, scratch: Path, step: int) -> None:
    """Delete what was taken after a step: the training goes on from there on another course."""
    for path in checkpoints.all_in(folder):
        if checkpoints.step_of(path) > step:
            delete(path, scratch)
    write_scores(folder, {taken: loss for taken, loss in scores(folder).items() if taken <= step})


def delete(checkpoint: Path, scratch: Path) -> None:
    """Delete a checkpoint."""
    scratch.mkdir(parents=True, exist_ok=True)
    aside = scratch / f"abandoned-{checkpoint.name}"
    shutil.rmtree(aside, ignore_errors=True)
    checkpoint.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def write_scores(folder: Path, held_out_losses: Mapping[int, float]) -> None:
    """Write down the held-out losses measured so far, by step."""
    write_atomic(folder / SCORES, json.dumps({str(step): loss for step, loss in held_out_losses.items()}).encode())


def best_of(folder: Path) -> Path | None:
    """Return the checkpoint with the lowest held-out loss, the earlier of two; not verified, None when none was measured."""
    ranked = by_held_out_loss(folder)
    return ranked[0] if ranked else None


def by_held_out_loss(folder: Path) -> list[Path]:
    """Return the checkpoints whose held-out loss was measured, the best first, none of them verified."""
    measured = scores(folder)
    scored = [path for path in checkpoints.all_in(folder) if checkpoints.step_of(path) in measured]
    return sorted(scored, key=lambda path: measured[checkpoints.step_of(path)])


def scores(folder: Path) -> dict[int, float]:
    """Return the held-out losses measured so far, by step; none where the file cannot be read."""
    try:
        read = json.loads((folder / SCORES).read_bytes())
        return {int(step): float(loss) for step, loss in read.items()}
    except (FileNotFoundError, ValueError, AttributeError, TypeError):
        return {}  # it only says what to keep; the worker writes it anew at its next evaluation
