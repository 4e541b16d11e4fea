"""The search's section of a profile: what is searched, how long, and what is left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from core.section import Operational, Section
from core.train.section import Schedule

MOST_PROCESSES = 64
_FEWEST_STEPS = 10
MAX_SEED = 2**31 - 1  # numpy takes twice as much; the trial's number is added to it
Goal = Literal["held_out_loss", "training_s", "trainable_parameters"]


class RateRange(Section):
    """Learning rates, drawn evenly over their logarithm."""

    low: float = Field(default=5e-5, gt=0, le=1)
    high: float = Field(default=1e-3, gt=0, le=1)

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} >= high={self.high:g} is no range: swap them or widen it, none fixes it")
        return self


def _several(values: Sequence[object]) -> Sequence[object]:
    if len(values) < 2:
        raise ValueError(
            "a search needs two values at least: add one, or none to keep what the section train says"
            if values
            else "is empty: give two values at least, or none to keep what the section train says"
        )
    if len(set(values)) < len(values):
        raise ValueError("holds a value twice: name each once")
    return values


_Several = AfterValidator(_several)


class SearchSpace(Section):
    """What trials differ in; none keeps what the section `train` says.

    The defaults span what the published recipes use: QLoRA's scripts, Unsloth, axolotl, LLaMA-Factory, torchtune, litgpt.
    """

    learning_rate: RateRange | None = Field(default=RateRange(), description="train.learning_rate")
    r: Annotated[tuple[Annotated[int, Field(ge=1, le=1024)], ...], _Several] | None = Field(
        default=(8, 16, 32, 64, 128, 256), description="train.lora.r"
    )
    lora_alpha: Annotated[tuple[Annotated[int, Field(ge=1)] | Literal["r", "2r"], ...], _Several] | None = Field(
        default=("r", "2r", 32), description="train.lora.lora_alpha: r is the trial's rank, 2r twice that"
    )
    lora_dropout: Annotated[tuple[Annotated[float, Field(ge=0, lt=1)], ...], _Several] | None = Field(
        default=(0.0, 0.05, 0.1), description="train.lora.lora_dropout"
    )
    effective_batch: Annotated[tuple[Annotated[int, Field(ge=1)], ...], _Several] | None = Field(
        default=(8, 16, 32),
        description="Rows of one optimiser step; a trial sets train.gradient_accumulation_steps for it",
    )
    lr_scheduler_type: Annotated[tuple[Schedule, ...], _Several] | None = Field(
        default=("linear", "cosine", "constant"), description="train.lr_scheduler_type"
    )

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not self.searched:
            raise ValueError("every parameter is none, nothing is searched: give one of them values")
        return self

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the parameters trials differ in."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class RangeTest(Section):
    """A training of a few steps with a rate that rises from `low` to `high`, before the first trial."""

    steps: int = Field(default=60, ge=0, le=10_000, description="Steps of the test; 0 leaves it out")
    low: float = Field(default=1e-6, gt=0, le=1)
    high: float = Field(default=0.1, gt=0, le=1)
    stop_at: float = Field(default=2.0, gt=1, description="Stop when the smoothed loss is so many times its lowest")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low:g} >= high={self.high:g} is no range: swap them or widen it")
        if 0 < self.steps < _FEWEST_STEPS:
            raise ValueError(f"steps={self.steps} < {_FEWEST_STEPS} make no curve: raise it, or 0 leaves the test out")
        return self

    @property
    def factor(self) -> float:
        """What the rate is multiplied by from one step to the next."""
        return math.exp(math.log(self.high / self.low) / (self.steps - 1))


class SearchConfig(Section):
    """How training settings are searched; the trials train as the section `train` says, but for what they differ in."""

    trials: int = Field(default=20, ge=1, le=10_000, description="Trials to end: finished, pruned, diverged or failed")
    budget_s: float | None = Field(
        default=None, gt=0, description="Seconds all trials may take together; none sets no limit"
    )
    processes: Annotated[int, Operational] = Field(
        default=1, ge=1, le=MOST_PROCESSES, description="Trials at the same time"
    )
    subset_rows: int | None = Field(
        default=None, ge=2, description="Training rows a trial learns from, chosen by the hash of their id; none takes all"
    )
    goals: tuple[Goal, ...] = Field(
        default=("held_out_loss",), description="What is made small: held_out_loss, and one more if asked"
    )
    evaluations: int = Field(default=4, ge=1, le=100, description="Held-out losses a trial reports, the last at its end")
    prune: bool | None = Field(
        default=None,
        description="End a trial whose early held-out losses are worse than the median; none does so with one goal",
    )
    startup_trials: int = Field(default=5, ge=1, description="Trials drawn at random, and ended before any is pruned")
    max_failed: Annotated[int, Operational] = Field(
        default=3, ge=1, description="The search stops when so many trials in a row failed for another reason than the rate"
    )
    seed: int = Field(default=42, ge=0, le=MAX_SEED)
    space: SearchSpace = SearchSpace()
    range_test: RangeTest = RangeTest()

    @model_validator(mode="after")
    def _has_goals_that_fit(self) -> Self:
        if "held_out_loss" not in self.goals or len(self.goals) > 2 or len(set(self.goals)) < len(self.goals):
            raise ValueError(f"goals={list(self.goals)!r}: name held_out_loss, and one other at most")
        if self.prune and len(self.goals) > 1:
            raise ValueError(
                f"prune=true and goals={list(self.goals)!r}: with two goals no trial is worse before its end, take one of"
                " the two back"
            )
        return self

    @property
    def prunes(self) -> bool:
        """Whether trials are ended early."""
        return len(self.goals) == 1 if self.prune is None else self.prune
