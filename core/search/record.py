"""A trial as the artifact keeps it, read from Optuna's study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import FiniteFloat

from core.contract import Contract

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

Outcome = Literal["finished", "pruned", "diverged", "failed", "stopped", "lost"]


class Measured(Contract):
    """What a trial that ended well measured: losses in nats per completion token, the time of its steps in seconds."""

    held_out_loss: FiniteFloat
    base_held_out_loss: FiniteFloat
    training_s: FiniteFloat
    trainable_parameters: int
    steps: int


class TrialRecord(Contract):
    """A trial that ended.

    `drawn` are its values by the names of the search space, `settings` what they change in the section `train`.
    `early_losses` are its held-out losses on the way, evenly spread over its steps. A `lost` trial's process died; it was
    tried again. `retry_of` is the number of the trial it tries again.
    """

    number: int
    outcome: Outcome
    reason: str = ""
    drawn: dict[str, Any]
    settings: dict[str, Any]
    early_losses: tuple[FiniteFloat, ...]
    measured: Measured | None = None
    spent_s: FiniteFloat
    retry_of: int | None = None
    is_best: bool = False


def record_of(trial: FrozenTrial) -> TrialRecord | None:
    """Return an ended trial, None for one that is under way or waits."""
    told = trial.user_attrs
    if not trial.state.is_finished() or "outcome" not in told:
        return None
    return TrialRecord(
        number=trial.number,
        outcome=told["outcome"],
        reason=told.get("reason", ""),
        drawn=dict(trial.params),
        settings=told.get("settings", {}),
        early_losses=tuple(loss for _, loss in sorted(trial.intermediate_values.items())),
        measured=told.get("measured"),
        spent_s=told["spent_s"],
        retry_of=told.get("retry_of"),
    )
