"""The train stage's section of a profile."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from core.data.record import AssistantTurns
from core.section import Operational, Section
from core.train.limits import DetectionLimits, EvictionLimits, HeadroomLimits, SupervisionLimits

MAX_SEED = 2**32 - 1  # what numpy takes
Schedule = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt"
]


class LoraConfig(Section):
    """The LoRA adapter."""

    r: int = Field(default=16, ge=1, le=1024)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    use_dora: bool = Field(default=False, description="Weight-decomposed LoRA: magnitude and direction apart")
    use_rslora: bool = Field(default=False, description="Scale by lora_alpha / sqrt(r), so that a large r learns as fast")


class ParallelConfig(Section):
    """In how many processes on this machine the student is trained, each with rows of its own."""

    processes: int = Field(
        default=1, ge=1, le=64, description="Processes, one a GPU; a step takes so many times the rows of one"
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="A file of configs/accelerate: each process holds the whole student (ddp) or, on GPUs, a part (fsdp)",
    )


class DistillationConfig(Section):
    """Learning from the teacher's likeliest tokens beside its answers; label.top_logprobs says how many are kept."""

    weight: float = Field(
        default=0.5, gt=0, le=1, description="Share of the teacher's words in the loss, the answers' is the rest"
    )
    temperature: float = Field(default=1.0, ge=0.1, le=20, description="Above 1 the less likely tokens count for more")


class TrainConfig(Section):
    """How the student is trained."""

    student: str = Field(description="A student of configs/models")
    preset: Annotated[str | None, Operational] = Field(
        default=None,
        description="Settings of configs/presets that lie under the profile's own; auto takes those for this machine",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    quantisation: Literal["nf4", "fp4", "none"] = Field(default="nf4", description="4-bit format of the frozen base")
    double_quantisation: bool = True
    lora: LoraConfig = LoraConfig()
    num_train_epochs: float = Field(default=2.0, gt=0, le=100)
    per_device_train_batch_size: int = Field(default=4, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=4e-4, gt=0, le=1)
    lr_scheduler_type: Schedule = "cosine"
    optim: Literal["adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = Field(
        default="adamw_torch_fused", description="Optimiser; the 8-bit and the paged ones need CUDA"
    )
    warmup_steps: int = Field(default=2, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    max_length: int = Field(default=512, ge=16)
    assistant_turns: AssistantTurns = Field(
        default="all", description="Assistant turns of a chat that are learned; held-out chats are judged by the last"
    )
    packing: bool = Field(
        default=False, description="Fill rows of max_length with several chats that do not see each other"
    )
    order: Literal["shuffled", "by_length", "by_teacher_loss"] = Field(
        default="shuffled",
        description="Rows in a new random order each epoch, the short ones first, or those the teacher was surest of first",
    )
    distillation: DistillationConfig | None = Field(
        default=None, description="Learn from the teacher's log-probabilities too; its tokenizer must be the student's"
    )
    gradient_checkpointing: bool | None = Field(
        default=None, description="Compute activations twice instead of keeping them; none does so on a GPU"
    )
    parallel: ParallelConfig = ParallelConfig()
    seed: int = Field(default=42, ge=0, le=MAX_SEED)
    eval_steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps between held-out losses; none measures them at both ends only"
    )
    early_stopping_patience: int | None = Field(
        default=None,
        ge=1,
        description="Stop after so many held-out losses in a row that are not the best, and take the best adapter",
    )
    checkpoint_max_loss_s: Annotated[float, Operational] = Field(
        default=120.0, gt=0, description="Seconds of work an interruption may cost on average"
    )
    checkpoint_steps: Annotated[int | None, Operational] = Field(
        default=None, ge=1, description="Optimiser steps between checkpoints, in place of checkpoint_max_loss_s"
    )
    eviction: Annotated[EvictionLimits, Operational] = EvictionLimits()
    detection: Annotated[DetectionLimits, Operational] = DetectionLimits()
    headroom: Annotated[HeadroomLimits, Operational] = HeadroomLimits()
    layer_norm_steps: Annotated[int | None, Operational] = Field(
        default=50, ge=1, description="Optimiser steps between gradient norms of each layer; none measures none"
    )
    supervision: Annotated[SupervisionLimits, Operational] = SupervisionLimits()
    min_gain: Annotated[float, Operational] = Field(default=0.0, description="Nats the held-out loss must fall by")
    timeout_s: Annotated[float, Operational] = Field(default=86_400.0, gt=0)

    @model_validator(mode="after")
    def _measures_what_it_stops_on(self) -> Self:
        if self.early_stopping_patience is not None and self.eval_steps is None:
            raise ValueError(
                f"early_stopping_patience={self.early_stopping_patience} and eval_steps=none: "
                "no held-out loss is measured while training, give eval_steps too"
            )
        return self

    @model_validator(mode="after")
    def _has_one_order(self) -> Self:
        if self.packing and self.order != "shuffled":
            raise ValueError(f"packing=true and order={self.order}: packed rows have no order, choose one of the two")
        if self.packing and self.distillation is not None:
            raise ValueError("packing=true and distillation: the teacher's words are not packed, choose one of the two")
        return self

    @property
    def needs_logprobs(self) -> bool:
        """Whether the training reads the teacher's log-probabilities."""
        return self.distillation is not None or self.order == "by_teacher_loss"
