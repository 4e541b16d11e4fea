"""Trains a LoRA adapter on a 4-bit student with TRL, PEFT and bitsandbytes, in a process of its own.

Its parts: exact/worker.py is the trainer, state/worker.py what a checkpoint holds, held_out/worker.py the held-out loss.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
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
from trl import SFTConfig, pack_dataset

from core.config import TrainConfig
from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import ArtifactError, BadConfig, DataError, ToolMissing, TrainingDiverged
from core.events import Note, OnEvent
from core.files import disk_full_is_an_error, read_json_lines, replace_json_lines, write_json_lines
from core.train import checkpoints, retention
from core.train.cadence import Cadence
from core.train.distillation import worker as distillation
from core.train.eviction import Watcher
from core.train.exact.worker import Around, ExactTrainer, WaitedEnough, fix_adapter_dtype, held_out_records, step_records
from core.train.faults import fault_of
from core.train.gauges.worker import Gauges, free_caches
from core.train.halted import Halt, leave
from core.train.headroom import Headroom
from core.train.held_out.worker import Evaluation, labels_of
from core.train.metrics import Metrics
from core.train.orphan import attendance_of
from core.train.request import TrainRequest, TrainResult
from core.train.several import worker as several
from core.train.shards import worker as shards
from core.train.state import worker as state
from core.train.stop import Stop
from core.train.suspects.worker import ROW_PLACES
from core.worker_process import main

__all__ = ["fix_adapter_dtype"]


def work(request: TrainRequest, folder: Path, on_event: OnEvent) -> TrainResult:
    """Train, and measure the held-out loss of the base and of the trained student on the same tokens.

    TrainingDiverged where a step stands out; what did is then in the folder (halted.py).
    """
    request = request.model_copy(update={"config": request.course.applied(request.config)})
    with Watcher(request.config.eviction) as watcher:
        try:
            return _train(request, Stop(watcher, attendance_of(request), on_event), on_event)
        except Halt as halt:
            if several.is_first():
                leave(folder, halt.halted)
            several.wait_for_all()  # the launcher ends all processes as soon as one has ended
            raise TrainingDiverged(
                f"{halt} (train.learning_rate {request.config.learning_rate:g})",
                remedy="Lower train.learning_rate or train.max_grad_norm; the checkpoints before that step are kept.",
            ) from None
        except (RuntimeError, MemoryError) as error:
            if (fault := fault_of(error)) is None:
                raise
            raise fault from error


def _train(request: TrainRequest, stop: Stop, on_event: OnEvent) -> TrainResult:
    config = request.config
    _require_optimiser(config, chosen_device(config))
    set_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(request.student_folder)
    train_rows, held_out = _read(request.train), _read(request.held_out)
    evaluation = Evaluation(held_out, config.per_device_train_batch_size, tokenizer.pad_token_id or 0, on_event, stop)
    gauges = Gauges(chosen_device(config))
    metrics = Metrics(Path(request.metrics if several.is_first() else os.devnull), gauges.read)
    headroom = Headroom(config.headroom, on_event, look=gauges.rooms, free=free_caches, stopping=stop.is_asked)
    trainer = _trainer(request, tokenizer, train_rows, evaluation, metrics=metrics, headroom=headroom)
    base_loss = evaluation.loss_of_base(trainer.model)
    if request.measures:
        return _measured(request, trainer, evaluation, base_loss)
    metrics.held_out(0, base_loss)
    trainer.compare_with(base_loss)
    if several.is_first():
        replace_json_lines(Path(request.steps), step_records(_history(request.resume_from)))
    with disk_full_is_an_error(Path(request.checkpoints)), contextlib.suppress(WaitedEnough):
        trainer.train(resume_from_checkpoint=request.resume_from)
    return _finish(request, trainer, evaluation, base_loss)


def _measured(request: TrainRequest, trainer: ExactTrainer, evaluation: Evaluation, base_loss: float) -> TrainResult:
    """Return the figures of a checkpoint; nothing is trained or written."""
    checkpoint = Path(str(request.resume_from))
    state.load_adapter(trainer.model, checkpoint)
    loss = evaluation.loss(trainer.model, "checkpoint")
    return _result(request, trainer, _history(str(checkpoint)), (base_loss, loss), checkpoints.step_of(checkpoint))


def _finish(request: TrainRequest, trainer: ExactTrainer, evaluation: Evaluation, base_loss: float) -> TrainResult:
    adapter_step = trainer.state.global_step
    if request.config.early_stopping_patience is not None:
        adapter_step = _take_best(request, trainer, evaluation.on_event)
    loss = evaluation.loss(trainer.model, "trained")
    steps, weights = step_records(trainer.state.log_history), shards.whole_adapter(trainer.model)
    if several.is_first():
        _write(request, trainer, steps, weights)
    return _result(request, trainer, trainer.state.log_history, (base_loss, loss), adapter_step)


def _result(
    request: TrainRequest,
    trainer: ExactTrainer,
    history: list[dict[str, Any]],
    losses: tuple[float, float],
    adapter_step: int,
) -> TrainResult:
    steps = step_records(history)
    return TrainResult(
        base_held_out_loss=losses[0],
        held_out_loss=losses[1],
        steps=len(steps),
        adapter_step=adapter_step,
        trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        trained_tokens=sum(record["trained_tokens"] for record in steps),
        device=chosen_device(request.config),
    )


def _write(
    request: TrainRequest,
    trainer: ExactTrainer,
    steps: list[dict[str, Any]],
    weights: dict[str, torch.Tensor] | None,
) -> None:
    replace_json_lines(Path(request.steps), steps)
    if held_out := held_out_records(trainer.state.log_history):
        write_json_lines(Path(request.held_out_losses), held_out)
    shutil.rmtree(request.adapter, ignore_errors=True)
    state.save_adapter(trainer.model, Path(request.adapter), request.student_name, weights)


def _take_best(request: TrainRequest, trainer: ExactTrainer, on_event: OnEvent) -> int:
    """Put the adapter with the lowest held-out loss into the model and return its step."""
    for folder in retention.by_held_out_loss(Path(request.checkpoints)):
        try:
            taken = checkpoints.verify(folder, request.training).taken
        except ArtifactError as error:
            text = f"the checkpoint with the best held-out loss is broken, the next best is taken: {error.problem}"
            on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))
            continue
        state.load_adapter(trainer.model, folder)
        return taken.step
    return int(trainer.state.global_step)


def _trainer(
    request: TrainRequest,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[TokenisedRow],
    evaluation: Evaluation,
    *,
    metrics: Metrics,
    headroom: Headroom,
) -> ExactTrainer:
    config, device = request.config, chosen_device(request.config)
    resumed = checkpoints.verify(Path(request.resume_from), request.training) if request.resume_from else None
    rows = distillation.ordered(rows, request, evaluation.on_event)
    student = load_student(request.student_folder, config, device, compute_dtype(device))
    _require_targets(student, config, evaluation.on_event)
    return ExactTrainer(
        Around(
            request=request,
            rows=rows,
            on_event=evaluation.on_event,
            stop=evaluation.stop,
            cadence=Cadence(config.checkpoint_steps, config.checkpoint_max_loss_s),
            evaluation=evaluation,
            device=device,
            resumed=resumed,
            metrics=metrics,
            headroom=headroom,
        ),
        model=student,
        args=_arguments(config, device, _scratch(Path(request.checkpoints))),
        train_dataset=_dataset(rows, config, distillation.teacher_columns(rows, request, tokenizer, evaluation.on_event)),
        processing_class=tokenizer,
        peft_config=lora_config(config),
    )


def _scratch(folder: Path) -> Path:
    """Return the folder checkpoints are written in; the first process empties it, before any writes there."""
    return state.cleared(folder / "writing") if several.is_first() else folder / "writing"


def _history(checkpoint: str | None) -> list[dict[str, Any]]:
    """Return the trainer's log as a verified checkpoint holds it, empty without one."""
    if checkpoint is None:
        return []
    return list(json.loads((Path(checkpoint) / state.TRAINER_STATE).read_text(encoding="utf-8"))["log_history"])


def chosen_device(config: TrainConfig) -> str:
    """Return where the configuration trains here, `cpu` or `cuda`; ToolMissing when it wants a GPU torch does not see."""
    usable = torch.cuda.is_available()
    if usable and config.device != "cpu" and several.ranks() > torch.cuda.device_count():
        raise ToolMissing(
            f"train.parallel.processes is {several.ranks()}, torch sees {torch.cuda.device_count()} GPUs",
            remedy="Set train.parallel.processes to the number of GPUs, or train.device=cpu.",
        )
    if config.parallel.strategy == "fsdp" and several.ranks() > 1 and not (usable and config.device != "cpu"):
        raise ToolMissing(
            "train.parallel.strategy is fsdp, which needs GPUs: accelerate shards on nothing else",
            remedy="Set train.parallel.strategy=ddp.",
        )
    if config.device == "cuda" and not usable:
        raise ToolMissing(
            "train.device is cuda and torch sees no CUDA GPU", remedy="Set train.device=cpu or mend the driver."
        )
    return "cuda" if usable and config.device != "cpu" else "cpu"


def _require_optimiser(config: TrainConfig, device: str) -> None:
    if device == "cpu" and ("8bit" in config.optim or "paged" in config.optim):
        raise ToolMissing(
            f"train.optim is {config.optim}, the training runs on the CPU",
            remedy="Set train.optim=adamw_torch_fused, or train on a CUDA GPU.",
        )


def compute_dtype(device: str) -> torch.dtype:
    """Return the type a device computes in, whatever the frozen weights are stored in."""
    if device == "cpu":  # bf16 halves the time where the CPU multiplies it (AVX512-BF16, AMX), elsewhere it is emulated
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    # below capability 8.0 torch emulates bf16, several times slower than the fp16 these GPUs have
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load_student(folder: str, config: TrainConfig, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a student with its blocks in the configured 4-bit format and everything else in `dtype`."""
    quantisation = None
    if config.quantisation != "none":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quantisation,
            bnb_4bit_use_double_quant=config.double_quantisation,
            bnb_4bit_compute_dtype=dtype,
            # 4-bit weights are sharded only as numbers of the type that is computed in (accelerate, fsdp2_prepare_model)
            bnb_4bit_quant_storage=dtype if config.parallel.strategy == "fsdp" else torch.uint8,
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        quantization_config=quantisation,
        device_map={"": f"cuda:{several.rank()}" if device == "cuda" else device},
    )
    _keep_as_quantised(model)
    return model


def _keep_as_quantised(model: torch.nn.Module) -> None:
    """Stop bitsandbytes 0.50 from repacking 4-bit weights at an evaluation on CPUs with AVX512-BF16.

    It rounds their scales to bf16 then, multiplies them by a kernel without a gradient even in the training that follows,
    and `state_dict` packs them back with scales quantised anew: such a base is neither frozen nor learned through.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def _require_targets(student: torch.nn.Module, config: TrainConfig, on_event: OnEvent) -> None:
    """Tell which layers named for an adapter are not there, BadConfig where none is: PEFT passes over some in silence."""
    wanted = config.lora.target_modules
    if isinstance(wanted, str):
        return
    named = {f".{name}": module for name, module in student.named_modules()}
    strange = [one for one in wanted if not any(name.endswith(f".{one}") for name in named)]
    if wanted and not strange:
        return
    linear = (name.rpartition(".")[2] for name, module in named.items() if isinstance(module, torch.nn.Linear))
    there = ", ".join(dict.fromkeys(linear))
    text = f"train.lora.target_modules: {', '.join(strange) or 'nothing'} is no layer of {config.student}, it has {there}"
    if len(strange) == len(wanted):
        raise BadConfig(text, remedy="Name layers of this student, or all: --set train.lora.target_modules=all-linear.")
    on_event(Note(stage=Stage.TRAIN, text=f"{text}; the others get an adapter", level="warning"))


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
        use_rslora=lora.use_rslora,
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
        optim=config.optim,
        warmup_steps=config.warmup_steps,
        max_grad_norm=config.max_grad_norm,
        max_length=config.max_length,
        seed=config.seed,
        data_seed=config.seed,
        use_cpu=device == "cpu",
        bf16=device == "cuda" and dtype is torch.bfloat16,
        fp16=dtype is torch.float16,
        gradient_checkpointing=device == "cuda" if config.gradient_checkpointing is None else config.gradient_checkpointing,
        packing=config.packing,
        train_sampling_strategy="random" if config.order == "shuffled" else "sequential",
        completion_only_loss=True,
        ddp_find_unused_parameters=False if several.ranks() > 1 else None,  # every weight of an adapter is used
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",  # exact/worker.py saves
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )


def _read(path: str) -> list[TokenisedRow]:
    rows = [TokenisedRow.model_validate(record) for record in read_json_lines(Path(path))]
    if not rows:
        raise DataError(f"{path} holds no row", remedy="Give more prompts, or change data.held_out_share.")
    # the first token is never predicted; a loss over no token is 0 or NaN, and neither says that nothing was learned
    if masked := [row.row_id for row in rows if not any(row.completion_mask[1:])]:
        raise DataError(
            f"row {masked[0]} has no token to train or score ({len(masked)} such of {len(rows)} rows)",
            remedy="Take these rows out, or raise train.max_length if it cut their answers off.",
        )
    return rows


def _dataset(rows: list[TokenisedRow], config: TrainConfig, more: Mapping[str, list[Any]] | None = None) -> Dataset:
    dataset = Dataset.from_dict(
        {
            "input_ids": [list(row.input_ids) for row in rows],
            "labels": [labels_of(row) for row in rows],
            ROW_PLACES: [[place] * len(row.input_ids) for place, row in enumerate(rows)],
            **(more or {}),
        }
    )
    return pack_dataset(dataset, config.max_length, "bfd") if config.packing else dataset


if __name__ == "__main__":
    main(TrainRequest, work)
