"""Takes the steps of a learning-rate range test: AdamW on a fresh adapter, one effective batch a step, a rate that rises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoTokenizer, set_seed

from core.contract import Stage
from core.data.record import TokenisedRow
from core.events import OnEvent, Progress
from core.files import read_json_lines
from core.search.range_test.curve import Curve, RangeTestRequest, curve_of, is_over
from core.train.held_out.worker import summed_loss
from core.train.section import TrainConfig
from core.train.worker import chosen_device, compute_dtype, fix_adapter_dtype, load_student, lora_config
from core.worker_process import main


def work(request: RangeTestRequest, folder: Path, on_event: OnEvent) -> Curve:
    """Raise the rate step by step until the loss leaves its lowest far behind, or is no number."""
    del folder
    config, test = request.config, request.test
    set_seed(config.seed)
    stepper = _Stepper(request, AutoTokenizer.from_pretrained(request.student_folder).pad_token_id or 0)
    rates: list[float] = []
    losses: list[float] = []
    ended = "all steps were taken"
    batches = _batches(request)
    for step in range(test.steps):
        rates.append(test.low * test.factor**step)
        losses.append(stepper.step(next(batches), rates[-1]))
        task = f"learning-rate range test, rate {rates[-1]:.1e}"
        on_event(Progress(stage=Stage.SEARCH, task=task, done=step + 1, total=test.steps, unit="steps"))
        if is_over(losses, test.stop_at):
            ended = f"the loss is {losses[-1]:.4g} at the rate {rates[-1]:.3g}"
            break
    if not math.isfinite(losses[-1]):  # a curve holds numbers
        rates, losses = rates[:-1], losses[:-1]
    return curve_of(rates, losses, ended)


class _Stepper:
    """Loads the student as the training does and takes optimiser steps."""

    def __init__(self, request: RangeTestRequest, pad: int) -> None:
        config = request.config
        self._device = chosen_device(config)
        self._dtype = compute_dtype(self._device)
        student = load_student(request.student_folder, config, self._device, self._dtype)
        self._model: Any = get_peft_model(student, lora_config(config))
        fix_adapter_dtype(self._model)
        self._model.train()
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimiser: Any = torch.optim.AdamW(self._trained, lr=config.learning_rate, weight_decay=0.0)
        self._scaler: Any = torch.amp.GradScaler(self._device, enabled=self._dtype is torch.float16)
        self._config = config
        self._pad = pad

    def step(self, rows: list[TokenisedRow], rate: float) -> float:
        """Take a step with a rate and return the loss before it, in nats per completion token."""
        size = self._config.per_device_train_batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        tokens = sum(sum(row.completion_mask[1:]) for row in rows)
        total = 0.0
        for batch in batches:
            total += self._backward(batch, tokens)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._scaler.unscale_(self._optimiser)
        torch.nn.utils.clip_grad_norm_(self._trained, self._config.max_grad_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._optimiser.zero_grad()
        return total

    def _backward(self, batch: list[TokenisedRow], tokens: int) -> float:
        mixed = self._device != "cpu" and self._dtype is not torch.float32
        with torch.autocast(self._device, dtype=self._dtype, enabled=mixed):
            loss, _ = summed_loss(self._model, batch, self._pad)
        loss = loss / tokens
        self._scaler.scale(loss).backward()
        return float(loss.detach())


def _batches(request: RangeTestRequest) -> Iterator[list[TokenisedRow]]:
    """Yield effective batches in a new random order each time through."""
    rows = [TokenisedRow.model_validate(record) for record in read_json_lines(Path(request.train))]
    size = min(len(rows), _effective_batch(request.config))
    waiting: list[TokenisedRow] = []
    while True:
        if len(waiting) < size:
            waiting += [rows[place] for place in torch.randperm(len(rows)).tolist()]
        yield waiting[:size]
        waiting = waiting[size:]


def _effective_batch(config: TrainConfig) -> int:
    return config.per_device_train_batch_size * config.gradient_accumulation_steps


if __name__ == "__main__":
    main(RangeTestRequest, work)
