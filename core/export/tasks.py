"""What share of the held-out prompts with a right answer a file answers rightly, beside its base and its teacher."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.compare.answers import AskRequest, ask
from core.compare.questions import Question, of_rows, sampled
from core.compare.scoring import of_teacher, score, shares
from core.config import ExportConfig
from core.data.record import LabeledRow
from core.events import OnEvent
from core.export.convert import convert, quantise
from core.files import sha256_of
from core.toolchain import Toolchain

BASE, TEACHER = "base", "teacher"
_BASE_TYPE = "Q8_0"  # nearer to the base than any difference a prompt would show, at a quarter of its F32 file's size


@dataclass(frozen=True)
class Tasks:
    """The prompts every file of an export answers, and how."""

    questions: tuple[Question, ...]
    config: ExportConfig
    toolchain: Toolchain
    on_event: OnEvent

    def shares_of(self, gguf: Path, scratch: Path) -> dict[str, float]:
        """Return the share of right answers of a file by task, nothing without prompts; GateRefused when it does not run."""
        if not self.questions:
            return {}
        request = AskRequest(
            gguf=str(gguf),
            sha256=sha256_of(gguf),
            toolchain=self.toolchain,
            questions=self.questions,
            max_tokens=self.config.task_tokens,
        )
        answers = ask(request, scratch, self.on_event, timeout_s=self.config.timeout_s)
        return shares(map(score, self.questions, answers.given))

    def around(self, base: Path, name: str, scratch: Path) -> dict[str, float]:
        """Return the shares of the base, as a Q8_0 file of its Hugging Face folder, and of the teacher; metrics by name."""
        if not self.questions:
            return {}
        scratch.mkdir(parents=True)
        f32, made = scratch / "base-F32.gguf", scratch / f"base-{_BASE_TYPE}.gguf"
        convert(base, f32, name, self.toolchain, self.on_event, timeout_s=self.config.timeout_s)
        quantise(f32, made, _BASE_TYPE, self.toolchain, self.on_event, timeout_s=self.config.timeout_s)
        f32.unlink()
        of_base = self.shares_of(made, scratch / "asked")
        shutil.rmtree(scratch)
        return metrics(BASE, of_base) | metrics(TEACHER, shares(map(of_teacher, self.questions)))


def chosen(rows: Iterable[LabeledRow], most: int) -> tuple[Question, ...]:
    """Return the rows that have a right answer as questions; of more than `most`, a sample as a comparison takes it."""
    return sampled((question for question in of_rows(rows) if question.is_task), most)


def metrics(whose: str, found: dict[str, float]) -> dict[str, float]:
    """Return shares as metrics of an artifact."""
    return {f"{task}.{whose}": share for task, share in found.items()}
