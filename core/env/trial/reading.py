"""What the trial's process is asked and what it answers. Judged in findings.py and conversion.py."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from core.catalogue import ModelCard
from core.config import TrainConfig
from core.contract import Contract
from core.env.student import StudentReading

ProblemKind = Literal["architecture", "pre-tokenizer", "tokenizer", "parameters", "chat-template", "system-message"]


class TrialRequest(Contract):
    """Which training and which student to try; `converter` is the folder of llama.cpp's converter, None before it is built."""

    train: TrainConfig
    card: ModelCard
    converter: Path | None


class Step(Contract):
    """One optimiser step of a tiny 4-bit model; `used` is what a training here would really take."""

    device: str
    name: str
    dtype: str
    used: bool
    seconds: float
    loss: float | None
    error: str | None


class TrainingTrial(Contract):
    """Every step that was tried; `error` says why none could be, or why the device asked for is none."""

    steps: tuple[Step, ...]
    error: str | None = None

    @property
    def compute_dtype(self) -> str | None:
        """The type a training here computes in."""
        return next((step.dtype for step in self.steps if step.used), None)


class Problem(Contract):
    """Something that would stop or spoil the conversion; `evidence` is the converter's or the template's own word."""

    kind: ProblemKind
    evidence: str


class ConversionTrial(Contract):
    """What the converter and the template answered for a student; `unchecked` says what was not asked and why."""

    student: StudentReading
    architecture: str | None = None
    tokenizer_model: str | None = None
    pre_tokenizer: str | None = None
    vocabulary: int | None = None
    renders: bool | None = None
    problems: tuple[Problem, ...] = ()
    unchecked: tuple[str, ...] = ()


class TrialReading(Contract):
    """Both trials."""

    training: TrainingTrial
    conversion: ConversionTrial
