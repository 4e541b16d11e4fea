"""The winner of a search: which trial, and the file of overrides that takes its settings into a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from core.errors import BudgetReached, TrainingDiverged
from core.search.record import Measured, TrialRecord
from core.search.section import SearchConfig

WINNER = "winner.yaml"


def winner_of(records: Sequence[TrialRecord], config: SearchConfig) -> tuple[TrialRecord, Measured]:
    """Return the finished trial with the lowest held-out loss and what it measured, whatever the other goal.

    BudgetReached or TrainingDiverged when no trial finished.
    """
    finished = [(record, record.measured) for record in records if record.measured is not None]
    if finished:
        return min(finished, key=lambda pair: (pair[1].held_out_loss, pair[0].number))
    stopped = [record for record in records if record.outcome == "stopped"]
    if not records or stopped:
        raise BudgetReached(
            f"0 trials finished, search.budget_s={config.budget_s:g} is spent"
            if config.budget_s is not None
            else "0 trials finished",
            remedy="Raise search.budget_s, or lower search.subset_rows or train.num_train_epochs; the same command goes on.",
        )
    raise TrainingDiverged(
        f"0 of {len(records)} trials finished; the last one, trial {records[-1].number}, {records[-1].outcome}: "
        f"{records[-1].reason}",
        remedy="Lower search.space.learning_rate.high, or search another space.",
    )


def overrides_file(settings: dict[str, Any], heading: Sequence[str]) -> str:
    """Return the winner's settings as a YAML file for --set, with lines of comment at its head."""
    return "".join(f"# {line}\n" for line in heading) + yaml.safe_dump({"train": settings}, sort_keys=True)


def as_overrides(settings: dict[str, Any], prefix: str = "train") -> tuple[str, ...]:
    """Return settings as overrides, `train.lora.r=64`."""
    found: list[str] = []
    for name, value in settings.items():
        key = f"{prefix}.{name}"
        found += as_overrides(value, key) if isinstance(value, dict) else [f"{key}={value}"]
    return tuple(found)
