"""The files of a LabeledDataset, written as a stream in the dataset's order from the ledger alone.

So neither concurrency nor kills leave a trace in them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from core.data.record import PromptRow, Reject
from core.label.answer_gate import AnswerGate
from core.label.ask import UNASKED, labeled, set_aside
from core.label.candidates import candidates_of
from core.label.choosing import Chosen, choose
from core.label.judging import Bench
from core.label.ledger import Ledger
from core.label.logprobs_file import LogprobsWriter
from core.label.outcome import Outcome
from core.label.questions import Question
from core.label.section import LabelConfig

FILES = ("train", "held_out", "unanswered", "samples")


@dataclass
class Written:
    """What became of the rows, how many were not asked any more, and the tokens of all replies that were read."""

    rows: Counter[str] = field(default_factory=Counter)
    unasked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class LabelsWriter:
    """Writes one question after the other; `unjudged` counts those the judge said nothing usable of."""

    def __init__(
        self, folder: Path, ledger: Ledger, config: LabelConfig, gate: AnswerGate, bench: Bench | None = None
    ) -> None:
        self.written = Written()
        self.unjudged = 0
        self._bench = bench
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
        with self._stack:
            for stream in () if error else self._streams.values():  # on disk before the manifest that names them
                stream.flush()
                os.fsync(stream.fileno())

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
        found = candidates_of(question, self._ledger, self._gate)
        self.written.prompt_tokens += sum(outcome.prompt_tokens for outcome in found.outcomes)
        self.written.completion_tokens += sum(outcome.completion_tokens for outcome in found.outcomes)
        if not found.valid:
            self._set_aside(found.rejected[0])
            self._keep_samples(row, found.outcomes, None)
            return
        chosen = self._choose(row, [candidate.said for candidate in found.valid])
        best = found.valid[chosen.place]
        self._keep(row, best.completion, best.outcome.tool_calls, chosen.consistency, best.outcome.confidence)
        self._keep_samples(row, found.outcomes, best.sample)
        self._keep_logprobs(row, best.outcome)

    def _choose(self, row: PromptRow, texts: list[str]) -> Chosen:
        if self._bench is None:
            by_agreement = self._config.samples.choice == "agreement"
            return choose(texts, "agreement" if by_agreement else "first", as_json=row.requires_json)
        place = self._bench.place(row, texts, self._ledger)
        self.unjudged += place is None
        return choose(texts, "agreement" if place is None else place, as_json=row.requires_json)

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
        self.written.unasked += reject.code == UNASKED
        self._put("unanswered", reject.model_dump(mode="json"))

    def _put(self, name: str, record: dict[str, Any]) -> None:
        self._streams[name].write(json.dumps(record, ensure_ascii=False) + "\n")
        self.written.rows[name] += 1
