"""The files of a LabeledDataset, written as a stream in the dataset's order from the ledger alone.

So neither concurrency nor kills leave a trace in them.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from core.data.record import PromptRow, Reject
from core.label.answer_gate import AnswerGate
from core.label.ask import labeled, set_aside
from core.label.choosing import choose
from core.label.ledger import Ledger
from core.label.logprobs_file import LogprobsWriter
from core.label.outcome import Outcome, follow
from core.label.questions import Question
from core.label.section import LabelConfig

FILES = ("train", "held_out", "unanswered", "samples")


@dataclass
class Written:
    """What became of the rows, and the tokens of all replies that were read."""

    rows: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class _Valid:
    sample: int
    outcome: Outcome
    completion: str


class LabelsWriter:
    """Writes one question after the other."""

    def __init__(self, folder: Path, ledger: Ledger, config: LabelConfig, gate: AnswerGate) -> None:
        self.written = Written()
        self._folder = folder
        self._ledger = ledger
        self._config = config
        self._gate = gate
        self._stack = ExitStack()
        self._streams: dict[str, TextIO] = {}

    def __enter__(self) -> LabelsWriter:
        names = FILES if self._config.samples.count > 1 else FILES[:-1]
        for name in names:
            stream = (self._folder / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n")
            self._streams[name] = self._stack.enter_context(stream)
        self._logprobs = (
            self._stack.enter_context(LogprobsWriter(self._folder / "logprobs.parquet"))
            if self._config.top_logprobs
            else None
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def write(self, question: Question) -> None:
        """Write a row with its answer, or why it has none."""
        row = question.row
        if question.problem:
            self._set_aside(set_aside(row, question.problem))
        elif not question.requests:
            self._keep(row, row.completion or "", row.answer_tool_calls)
        else:
            self._write_answered(question)

    def _write_answered(self, question: Question) -> None:
        row = question.row
        outcomes = [follow(first, self._ledger) for first in question.requests]
        valid: list[_Valid] = []
        rejected: list[Reject] = []
        for sample, outcome in enumerate(outcomes):
            self.written.prompt_tokens += outcome.prompt_tokens
            self.written.completion_tokens += outcome.completion_tokens
            if outcome.completion is None:
                rejected.extend([set_aside(row, outcome.problem)] if outcome.problem else [])
            elif reject := self._gate.refuses(row, outcome.completion, outcome.tool_calls):
                rejected.append(reject)
            else:
                valid.append(_Valid(sample, outcome, outcome.completion))
        if not valid:
            self._set_aside(rejected[0])
            self._keep_samples(row, outcomes, None)
            return
        chosen = choose([found.completion for found in valid], self._config.samples.choice, as_json=row.requires_json)
        best = valid[chosen.place]
        self._keep(row, best.completion, best.outcome.tool_calls, chosen.consistency, best.outcome.confidence)
        self._keep_samples(row, outcomes, best.sample)
        self._keep_logprobs(row, best.outcome)

    def _keep(
        self,
        row: PromptRow,
        completion: str,
        calls: tuple[dict[str, Any], ...],
        consistency: float | None = None,
        confidence: float | None = None,
    ) -> None:
        told = {"consistency": consistency, "confidence": confidence}
        score = self._gate.score(row, completion, calls, told)
        kept = labeled(row, completion, self._config.context_distillation, calls)
        kept = kept.model_copy(update={**told, "quality": score})
        self._put(row.split, kept.model_dump(mode="json"))

    def _keep_samples(self, row: PromptRow, outcomes: list[Outcome], chosen: int | None) -> None:
        if "samples" not in self._streams:
            return
        for sample, outcome in enumerate(outcomes):
            answer = outcome.model_dump(mode="json", include={"completion", "tool_calls", "problem", "confidence"})
            record = {"row_id": row.row_id, "sample": sample, "chosen": sample == chosen, **answer}
            self._streams["samples"].write(json.dumps(record, ensure_ascii=False) + "\n")

    def _keep_logprobs(self, row: PromptRow, outcome: Outcome) -> None:
        if self._logprobs is None or outcome.answered_by is None:
            return
        entry = self._ledger.find(outcome.answered_by)
        if entry is not None and entry.reply is not None:
            self._logprobs.add(row.row_id, entry.reply.logprobs)

    def _set_aside(self, reject: Reject) -> None:
        self._put("unanswered", reject.model_dump(mode="json"))

    def _put(self, name: str, record: dict[str, Any]) -> None:
        self._streams[name].write(json.dumps(record, ensure_ascii=False) + "\n")
        self.written.rows[name] += 1
