"""Trains a LoRA adapter on a 4-bit student with TRL, PEFT and bitsandbytes, in a process of its own.

Resume is exact on the CPU: adapter weights are fp32 from the first step on (TRL alone would start in bf16 and come back
in fp32), and a checkpoint carries optimiser, scheduler, random state and the log of every step.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from core.config import TrainConfig
from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import DataError, EnvironmentFault, ToolMissing, TrainingDiverged
from core.events import CheckpointSaved, OnEvent, Progress, TrainStep
from core.files import disk_full_is_an_error, read_json_lines, write_json_lines
from core.train import checkpoints
from core.train.request import TrainRequest, TrainResult
from core.worker_process import main

_IGNORED = -100  # the label the loss passes over


def work(request: TrainRequest, folder: Path, on_event: OnEvent) -> TrainResult:
    """Train, and measure the held-out loss of the base and of the trained student on the same tokens."""
    del folder
    config, device = request.config, chosen_device(request.config)
    set_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(request.student_folder)
    train_rows, held_out = _read(request.train), _read(request.held_out)
    trainer = _trainer(request, tokenizer, train_rows, device, on_event)
    evaluation = _Evaluation(held_out, config.per_device_train_batch_size, tokenizer.pad_token_id or 0, on_event)
    base_loss = evaluation.loss_of_base(trainer.model)
    write_json_lines(Path(request.steps), _step_records(_history(request.resume_from)))
    with disk_full_is_an_error(Path(request.checkpoints)):
        trainer.train(resume_from_checkpoint=request.resume_from)
    loss = evaluation.loss(trainer.model, "trained")
    steps = _step_records(trainer.state.log_history)
    write_json_lines(Path(request.steps), steps)
    _save_adapter(trainer.model, Path(request.adapter), request.student_name)
    return TrainResult(
        base_held_out_loss=base_loss,
        held_out_loss=loss,
        steps=len(steps),
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        trained_tokens=sum(record["trained_tokens"] for record in steps),
        device=device,
    )


def _trainer(
    request: TrainRequest, tokenizer: PreTrainedTokenizerBase, rows: list[TokenisedRow], device: str, on_event: OnEvent
) -> _ExactTrainer:
    writing = Path(request.checkpoints) / "writing"
    shutil.rmtree(writing, ignore_errors=True)
    trainer = _ExactTrainer(
        request,
        on_event,
        model=load_student(request.student_folder, request.config, device, compute_dtype(device)),
        args=_arguments(request.config, device, writing),
        train_dataset=_dataset(rows),
        processing_class=tokenizer,
        peft_config=lora_config(request.config),
    )
    fix_adapter_dtype(trainer.model)
    return trainer


def chosen_device(config: TrainConfig) -> str:
    """Return where the configuration trains here, `cpu` or `cuda`; ToolMissing when it wants a GPU torch does not see."""
    usable = torch.cuda.is_available()
    if config.device == "cuda" and not usable:
        raise ToolMissing(
            "train.device is cuda and torch sees no CUDA GPU", remedy="Set train.device=cpu or mend the driver."
        )
    return "cuda" if usable and config.device != "cpu" else "cpu"


def compute_dtype(device: str) -> torch.dtype:
    """Return the type a device computes in, whatever the frozen weights are stored in."""
    if device == "cpu":  # bf16 halves the time where the CPU multiplies it (AVX512-BF16, AMX), elsewhere it is emulated
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def load_student(folder: str, config: TrainConfig, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a student with its blocks in the configured 4-bit format and everything else in `dtype`."""
    quantisation = None
    if config.quantisation != "none":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantisation,
            bnb_4bit_use_double_quant=config.double_quantisation,
            bnb_4bit_compute_dtype=dtype,
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=quantisation, device_map={"": device}
    )
    return model


def lora_config(config: TrainConfig) -> LoraConfig:
    """Return the configured adapter as PEFT takes it."""
    lora = config.lora
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=modules,
        use_dora=lora.use_dora,
        task_type="CAUSAL_LM",
    )


def _arguments(config: TrainConfig, device: str, writing: Path) -> SFTConfig:
    dtype = compute_dtype(device)
    return SFTConfig(
        output_dir=str(writing),
        num_train_epochs=config.num_train_epochs,
        per_device_train_batch_size=config.per_device_train_batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.lr_scheduler_type,
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.max_grad_norm,
        max_length=config.max_length,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device == "cpu",
        bf16=device == "cuda" and dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        gradient_checkpointing=device == "cuda",
        completion_only_loss=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )


def _read(path: str) -> list[TokenisedRow]:
    rows = [TokenisedRow.model_validate(record) for record in read_json_lines(Path(path))]
    if not rows:
        raise DataError(f"{path} holds no row", remedy="Give more prompts, or change data.held_out_share.")
    return rows


def _labels(row: TokenisedRow) -> list[int]:
    return [token if keep else _IGNORED for token, keep in zip(row.input_ids, row.completion_mask, strict=True)]


def _dataset(rows: list[TokenisedRow]) -> Dataset:
    return Dataset.from_dict({"input_ids": [list(row.input_ids) for row in rows], "labels": [_labels(row) for row in rows]})


def fix_adapter_dtype(model: torch.nn.Module) -> None:
    """Put the adapter in fp32 before the optimiser is built: TRL casts it to bf16 on a 4-bit base, a resume loads fp32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def _require_adapter_dtype(model: torch.nn.Module) -> None:
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    if wrong:
        raise EnvironmentFault(
            f"adapter weight {wrong[0]} is not fp32 when training starts ({len(wrong)} such), a resume would not be exact",
            remedy="Install the pinned versions of torch, transformers, peft and trl.",
        )


class _ExactTrainer(SFTTrainer):  # type: ignore[misc]  # trl carries no types
    """TRL's trainer that tells every step, seals checkpoints, and stops before a loss or gradient that is no number acts."""

    def __init__(self, request: TrainRequest, on_event: OnEvent, **named: Any) -> None:
        super().__init__(**named)
        self._request = request
        self._on_event = on_event
        self._trained_tokens = 0

    def create_optimizer(self, *args: Any, **named: Any) -> Any:
        """Build the optimiser on an adapter that is in fp32, at the first start and after a resume."""
        _require_adapter_dtype(self.model)
        return super().create_optimizer(*args, **named)

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: Any, **named: Any
    ) -> torch.Tensor:
        """Count the trained tokens of a micro-batch and check its loss."""
        self._trained_tokens += int((inputs["labels"][:, 1:] != _IGNORED).sum())
        loss: torch.Tensor = super().training_step(model, inputs, *rest, **named)
        self._require_number("loss", float(loss))
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.args.fp16:  # with fp16 an Inf gradient is how the scaler finds its scale; it skips such a step itself
            self._require_number("gradient norm", float(norm))
        return norm

    def _require_number(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"the {what} of step {self.state.global_step + 1} is {value} (train.learning_rate {self.args.learning_rate:g})",
                remedy="Lower train.learning_rate or train.max_grad_norm; the checkpoints before that step are kept.",
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record a step and tell it."""
        if "loss" not in logs:
            super().log(logs, start_time)
            return
        logs["trained_tokens"], self._trained_tokens = self._trained_tokens, 0
        super().log(logs, start_time)
        (record,) = _step_records(self.state.log_history[-1:])
        with Path(self._request.steps).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        told = {name: value for name, value in record.items() if name != "trained_tokens"}
        self._on_event(TrainStep(steps=self.state.max_steps, **told))
        done, total = record["step"], self.state.max_steps
        self._on_event(Progress(stage=Stage.TRAIN, task="train", done=done, total=total, unit="steps"))

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        step = self.state.global_step
        about = {**self._request.versions, "threads": str(torch.get_num_threads()), "dtype": str(self.model.dtype)}
        checkpoints.keep(Path(self.args.output_dir) / f"checkpoint-{step}", Path(self._request.checkpoints), step, about)
        self._on_event(CheckpointSaved(step=step))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint holds state, not prose."""


def _history(checkpoint: str | None) -> list[dict[str, Any]]:
    """Return the trainer's log as a verified checkpoint holds it, empty without one."""
    if checkpoint is None:
        return []
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return list(state["log_history"])


def _step_records(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the record of every step from the trainer's log; no times, so that an undisturbed run writes the same."""
    fields = ("step", "loss", "learning_rate", "grad_norm", "trained_tokens")
    return [{name: entry[name] for name in fields} for entry in history if "loss" in entry]


@dataclass(frozen=True)
class _Evaluation:
    """The held-out loss: mean cross-entropy in nats per completion token, over the same tokens every time."""

    rows: list[TokenisedRow]
    batch_size: int
    pad: int
    on_event: OnEvent

    def loss_of_base(self, model: Any) -> float:
        """Return the loss without the adapter."""
        model.base_model.disable_adapter_layers()
        loss = self.loss(model, "base")
        model.base_model.enable_adapter_layers()
        return loss

    def loss(self, model: Any, which: str) -> float:
        """Return the loss of the model as it stands."""
        model.eval()
        total, tokens = 0.0, 0
        ordered = sorted(self.rows, key=lambda row: len(row.input_ids))  # like lengths together: less padding
        for start in range(0, len(ordered), self.batch_size):
            batch = ordered[start : start + self.batch_size]
            batch_total, batch_tokens = _batch_loss(model, batch, self.pad)
            total, tokens = total + batch_total, tokens + batch_tokens
            done, task = start + len(batch), f"held-out loss, {which}"
            self.on_event(Progress(stage=Stage.TRAIN, task=task, done=done, total=len(ordered), unit="rows"))
        model.train()
        return total / tokens


@torch.no_grad()
def _batch_loss(model: Any, batch: list[TokenisedRow], pad: int) -> tuple[float, int]:
    width = max(len(row.input_ids) for row in batch)
    ids = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), _IGNORED)
    attention = torch.zeros((len(batch), width), dtype=torch.long)
    for index, row in enumerate(batch):
        length = len(row.input_ids)
        ids[index, :length] = torch.tensor(row.input_ids)
        labels[index, :length] = torch.tensor(_labels(row))
        attention[index, :length] = 1
    logits = model(input_ids=ids.to(model.device), attention_mask=attention.to(model.device), use_cache=False).logits
    targets = labels[:, 1:].to(model.device)
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction="sum"
    )
    return float(loss), int((targets != _IGNORED).sum())


def _save_adapter(model: Any, folder: Path, student_name: str) -> None:
    """Write the adapter in PEFT's format, without this machine's paths and in a fixed order, so that its digest repeats."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["base_model_name_or_path"] = student_name
    if isinstance(written["target_modules"], list):
        written["target_modules"].sort()
    path.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(TrainRequest, work)
