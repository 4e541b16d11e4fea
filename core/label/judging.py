"""A second model that chooses among a prompt's valid answers by a rubric; it is asked through the same ledger, once a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from core.config import LabelConfig
from core.contract import Finding, Severity, Stage
from core.data.record import Message, PromptRow, messages_for
from core.events import OnEvent, Progress
from core.label.answer_gate import AnswerGate
from core.label.asking import Asker
from core.label.candidates import candidates_of
from core.label.ledger import Ledger
from core.label.outcome import follow
from core.label.questions import Questions
from core.label.request import Request
from core.label.section import Judge, Samples
from core.label.session import Session
from core.label.teachers import choose, open_teacher

_MAX_TOKENS = 64  # a number in JSON, and some room for a model that counts aloud first


@dataclass(frozen=True)
class Bench:
    """Who the judge is, what it goes by, and how it is asked."""

    judge: Judge
    identity: str
    config: LabelConfig

    def place(self, row: PromptRow, texts: list[str], ledger: Ledger) -> int | None:
        """Return the place of the answer the judge chose, None when it gave no verdict."""
        different = list(dict.fromkeys(texts))
        if len(different) == 1:
            return 0
        best = self.best(self.request(row, different), ledger)
        return texts.index(different[best]) if best is not None else None

    def best(self, request: Request, ledger: Ledger) -> int | None:
        """Return which answer of a request the judge chose, counted from 0, None when it gave no verdict."""
        said = follow(request, ledger).completion
        return int(json.loads(said)["best"]) - 1 if said is not None else None

    def request(self, row: PromptRow, different: list[str]) -> Request:
        """Return what the judge is asked about a row's answers that differ."""
        return self.between("\n\n".join(message.content for message in messages_for(row)), different)

    def between(self, asked: str, different: Sequence[str]) -> Request:
        """Return what the judge is asked about answers that differ, in their order."""
        schema: dict[str, Any] = {
            "type": "object",
            "properties": {"best": {"type": "integer", "minimum": 1, "maximum": len(different)}},
            "required": ["best"],
            "additionalProperties": False,
        }
        answers = "\n\n".join(f"Answer {number}:\n{text}" for number, text in enumerate(different, start=1))
        system = f'{self.judge.rubric} Answer only with JSON: {{"best": the number of the answer}}.'
        return Request(
            teacher=self.identity,
            messages=(
                Message(role="system", content=system),
                Message(role="user", content=f"Question:\n{asked}\n\n{answers}"),
            ),
            temperature=0.0,
            max_tokens=_MAX_TOKENS,
            seed=self.config.seed,
            answer_schema=schema,
        )


def bench_of(config: LabelConfig, on_event: OnEvent, beside: Path | None) -> Bench | None:
    """Return the judge of a labelling, None where there is none; BadConfig for one that cannot be asked."""
    return seat(judge, config, on_event, beside) if (judge := config.samples.judge) is not None else None


def seat(judge: Judge, config: LabelConfig, on_event: OnEvent, beside: Path | None) -> Bench:
    """Return a judge that is asked as a labelling asks; BadConfig for one that cannot be."""
    own = {"teacher": judge.teacher, "backend": judge.backend, "base_url": judge.base_url, "api_key_env": judge.api_key_env}
    plain = {"temperature": 0.0, "samples": Samples(), "top_logprobs": 0, "extra_body": {}, "prices": judge.prices}
    settings = config.model_copy(update={**own, **plain})
    return Bench(judge, choose(settings, on_event, beside).identity, settings)


def ask_judge(bench: Bench, questions: Questions, gate: AnswerGate, session: Session) -> int:
    """Have every question judged that has answers to choose from; return how many requests were sent."""
    task, done = f"asking {bench.judge.teacher} to judge", 0

    def step(change: int) -> None:
        nonlocal done
        done += change
        session.on_event(Progress(stage=Stage.LABEL, task=task, done=done, total=None, unit="rows"))

    return hear(bench, _requests(bench, questions, gate, session.ledger), session, step)


def hear(bench: Bench, requests: Iterator[Request], session: Session, step: Callable[[int], None]) -> int:
    """Ask the judge and return how many requests were sent; without a request it is not even loaded."""
    if (first := next(requests, None)) is None:
        return 0
    teacher = open_teacher(bench.config, session.on_event, session.beside)
    asker = Asker(teacher, session.ledger, bench.config, session.account(bench.config), session.on_event)
    try:
        asker.ask_all(chain([first], requests), step)
    finally:
        teacher.close()
    return asker.sent


def _requests(bench: Bench, questions: Questions, gate: AnswerGate, ledger: Ledger) -> Iterator[Request]:
    for question in questions:
        different = list(dict.fromkeys(found.said for found in candidates_of(question, ledger, gate).valid))
        if len(different) > 1:
            request = bench.request(question.row, different)
            if follow(request, ledger).missing is not None:
                yield request


def silent_judge(rows: int) -> Finding:
    """Return what to tell when a judge gave no verdict on some rows."""
    return Finding(
        code="label-judge-silent",
        severity=Severity.WARNING,
        where="label.samples.judge",
        evidence=f"{rows} rows have answers that differ and no verdict",
        cause="the judge answered with something else than a number",
        remedy="Ask a stronger judge; these rows took the answer most like the others.",
    )
