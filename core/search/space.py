"""From the search space to a trial: what Optuna may draw, and the training settings that a draw stands for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core.errors import BadConfig
from core.search.section import SearchConfig, SearchSpace
from core.train.section import TrainConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Drawn = Mapping[str, Any]
"""A trial's values by the names of SearchSpace."""


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return the space as Optuna draws from it; choices have no order for it, so it never invents a value between two."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    made: dict[str, BaseDistribution] = {}
    for name in space.searched:
        values = getattr(space, name)
        made[name] = (
            FloatDistribution(values.low, values.high, log=True)
            if name == "learning_rate"
            else CategoricalDistribution(values)
        )
    return made


def check(space: SearchSpace, train: TrainConfig) -> None:
    """Raise BadConfig where the space does not fit the training it is searched for."""
    rows = _micro_batch(train)
    if wrong := [batch for batch in space.effective_batch or () if batch % rows]:
        raise BadConfig(
            f"search.space.effective_batch={wrong[0]} is no multiple of train.per_device_train_batch_size="
            f"{train.per_device_train_batch_size}{_times(train)}",
            remedy=f"Search multiples of {rows}, set train.per_device_train_batch_size to a divisor, or "
            "search.space.effective_batch=null to keep the profile's.",
        )


def settings(drawn: Drawn, train: TrainConfig) -> dict[str, Any]:
    """Return what a draw changes in the section `train`, as a tree of its keys."""
    tree: dict[str, Any] = {name: drawn[name] for name in ("learning_rate", "lr_scheduler_type") if name in drawn}
    if "effective_batch" in drawn:
        tree["gradient_accumulation_steps"] = drawn["effective_batch"] // _micro_batch(train)
    lora: dict[str, Any] = {name: drawn[name] for name in ("r", "lora_dropout") if name in drawn}
    if "lora_alpha" in drawn:
        lora["lora_alpha"] = _alpha(drawn["lora_alpha"], lora.get("r", train.lora.r))
    return {**tree, "lora": lora} if lora else tree


def _micro_batch(train: TrainConfig) -> int:
    """Return the rows of one pass through the student, in all the training's processes."""
    return train.per_device_train_batch_size * train.parallel.processes


def _times(train: TrainConfig) -> str:
    return f" in {train.parallel.processes} processes" if train.parallel.processes > 1 else ""


def _alpha(drawn: int | str, r: int) -> int:
    return {"r": r, "2r": 2 * r}[drawn] if isinstance(drawn, str) else drawn


def trial_config(drawn: Drawn, train: TrainConfig, search: SearchConfig, rows: int) -> TrainConfig:
    """Return the training of a trial on so many rows; it measures the held-out loss `search.evaluations` times."""
    changes = settings(drawn, train)
    lora = {**train.lora.model_dump(), **changes.get("lora", {})}
    config = TrainConfig.model_validate({**train.model_dump(), **changes, "lora": lora})
    every = math.ceil(steps_of(config, rows) / search.evaluations)
    # a trial that is mended, at half its rate say, would no longer be the trial; and it ends with its search
    supervision = config.supervision.model_copy(update={"acts": False, "orphan_s": 0.0})
    return config.model_copy(update={"eval_steps": max(1, every), "supervision": supervision})


def steps_of(config: TrainConfig, rows: int) -> int:
    """Return the optimiser steps of a training without packing, as transformers counts them."""
    steps_of_epoch = math.ceil(math.ceil(rows / _micro_batch(config)) / config.gradient_accumulation_steps)
    return math.ceil(config.num_train_epochs * steps_of_epoch)
