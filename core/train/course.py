"""What the supervisor has changed about a training so far. How it came to that is in decision.py."""

from __future__ import annotations

from pydantic import Field

from core.contract import Contract
from core.train.section import TrainConfig


class Course(Contract):
    """The default is an undisturbed training.

    No token of the rows `left_out` is trained on, and nothing is learned at the `skipped_steps`; neither moves another row
    to another step. `micro_batch` rows go through the model at once, None as many as configured.
    """

    left_out: tuple[str, ...] = ()
    skipped_steps: tuple[int, ...] = ()
    learning_rate_factor: float = Field(default=1.0, gt=0, le=1)
    micro_batch: int | None = Field(default=None, ge=1)

    def applied(self, config: TrainConfig) -> TrainConfig:
        """Return the settings to train with: a smaller micro-batch is accumulated more often, so that a step stays a step."""
        rows = self.micro_batch or config.per_device_train_batch_size
        return config.model_copy(
            update={
                "learning_rate": config.learning_rate * self.learning_rate_factor,
                "per_device_train_batch_size": rows,
                "gradient_accumulation_steps": config.gradient_accumulation_steps
                * config.per_device_train_batch_size
                // rows,
            }
        )

    def smaller(self, config: TrainConfig) -> int | None:
        """Return the next smaller micro-batch that steps of the configured size are made of, None when it is one row."""
        now = self.micro_batch or config.per_device_train_batch_size
        return next((rows for rows in range(now // 2, 0, -1) if config.per_device_train_batch_size % rows == 0), None)
