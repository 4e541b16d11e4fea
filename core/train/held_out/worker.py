"""The held-out loss of a student, with and without its adapter. Part of the train worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import TrainingDiverged
from core.events import OnEvent, Progress
from core.train.held_out.batching import batches
from core.train.stop import Stop

IGNORED = -100  # the label the loss passes over


def labels_of(row: TokenisedRow) -> list[int]:
    """Return a row's labels: its tokens where they are trained and scored, IGNORED elsewhere."""
    return [token if keep else IGNORED for token, keep in zip(row.input_ids, row.completion_mask, strict=True)]


@dataclass(frozen=True)
class Evaluation:
    """The held-out loss: mean cross-entropy in nats per completion token, over the same tokens every time.

    It draws nothing from any random generator, so a training goes on as if it had not been. Obeys a stop between batches.
    """

    rows: list[TokenisedRow]
    batch_size: int
    pad: int
    on_event: OnEvent
    stop: Stop

    def loss_of_base(self, model: Any) -> float:
        """Return the loss without the adapter."""
        model.base_model.disable_adapter_layers()
        loss = self.loss(model, "base")
        model.base_model.enable_adapter_layers()
        return loss

    def loss(self, model: Any, which: str) -> float:
        """Return the loss of the model as it stands; TrainingDiverged when it is no number."""
        model.eval()
        total, tokens = 0.0, 0
        done, task = 0, f"held-out loss, {which}"
        for batch in batches(self.rows, self.batch_size):
            self.stop.obey()
            batch_total, batch_tokens = _batch_loss(model, batch, self.pad)
            total, tokens = total + batch_total, tokens + batch_tokens
            done += len(batch)
            self.on_event(Progress(stage=Stage.TRAIN, task=task, done=done, total=len(self.rows), unit="rows"))
        model.train()
        if not math.isfinite(total):
            raise TrainingDiverged(
                f"the held-out loss, {which}, is {total / tokens}",
                remedy="If it is the base's, take another student; else lower train.learning_rate or train.max_grad_norm.",
            )
        return total / tokens


@torch.no_grad()
def _batch_loss(model: Any, batch: list[TokenisedRow], pad: int) -> tuple[float, int]:
    loss, tokens = summed_loss(model, batch, pad)
    return float(loss), tokens


def summed_loss(model: Any, batch: list[TokenisedRow], pad: int) -> tuple[torch.Tensor, int]:
    """Return the summed cross-entropy of a batch of rows in nats, and over how many tokens.

    Logits are made only at positions whose next token is scored in some row: shape (rows, positions, words).
    """
    width = max(len(row.input_ids) for row in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), IGNORED)
    attention = torch.zeros((len(batch), width), dtype=torch.long)
    for index, row in enumerate(batch):
        length = len(row.input_ids)
        ids[index, :length] = torch.tensor(row.input_ids)
        labels[index, :length] = torch.tensor(labels_of(row))
        attention[index, :length] = 1
    targets = labels[:, 1:]
    scored = (targets != IGNORED).any(dim=0).nonzero().flatten()
    logits = model(
        input_ids=ids.to(model.device),
        attention_mask=attention.to(model.device),
        use_cache=False,
        logits_to_keep=scored.to(model.device),
    ).logits
    wanted = targets[:, scored].to(model.device)
    loss = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, int((wanted != IGNORED).sum())
