"""The comparison of two or more models: what is asked, what each is worth, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime

from core.compare.answers import Answers, AskRequest, Given, ask
from core.compare.difference import Difference, difference
from core.compare.questions import Question, have_tasks
from core.compare.scoring import TASKS, Score, score, shares
from core.compare.verdicts import Judging
from core.contract import Contract, Sha256
from core.errors import UsageError
from core.events import OnEvent, ignore
from core.files import sha256_of
from core.toolchain import Toolchain

LOSS = "nats_per_byte"


@dataclass(frozen=True)
class Entrant:
    """A model that takes part: its name for people, and its file."""

    name: str
    gguf: Path


class Compared(Contract):
    """One model's figures: `metrics` by name, each a mean over the prompts that have it; `answers` are in their order."""

    name: str
    path: str
    sha256: Sha256
    bytes: int
    metrics: dict[str, float]
    tokens_per_s: float | None
    answers: tuple[Given, ...]
    scores: tuple[Score, ...]


class Comparison(Contract):
    """Models on the same prompts; the differences are of each later model to the first, the judge's among them if one was asked."""

    made_at: AwareDatetime
    asked_from: str
    questions: tuple[Question, ...]
    models: tuple[Compared, ...]
    differences: tuple[tuple[Difference, ...], ...]
    judging: Judging | None = None


@dataclass(frozen=True)
class Setting:
    """How a comparison is done: `folder` keeps the answers, so that one that was killed goes on where it was."""

    folder: Path
    toolchain: Toolchain
    max_tokens: int
    timeout_s: float
    generates: bool = True


def compare(
    entrants: Sequence[Entrant],
    questions: Sequence[Question],
    asked_from: str,
    setting: Setting,
    on_event: OnEvent = ignore,
) -> Comparison:
    """Ask every model and hold each against the first; GateRefused names a file that does not run."""
    models = tuple(_compared(entrant, questions, setting, on_event) for entrant in entrants)
    return Comparison(
        made_at=datetime.now(UTC),
        asked_from=asked_from,
        questions=tuple(questions),
        models=models,
        differences=tuple(tuple(differences(models[0], other, questions)) for other in models[1:]),
    )


def _compared(entrant: Entrant, questions: Sequence[Question], setting: Setting, on_event: OnEvent) -> Compared:
    digest = _digest(entrant.gguf)
    generates = setting.generates or have_tasks(questions)
    request = AskRequest(
        gguf=str(entrant.gguf),
        sha256=digest,
        toolchain=setting.toolchain,
        questions=tuple(questions),
        max_tokens=setting.max_tokens if generates else 0,
    )
    answers = ask(request, setting.folder, on_event, timeout_s=setting.timeout_s)
    scores = tuple(map(score, questions, answers.given)) if generates else tuple(Score() for _ in questions)
    return Compared(
        name=entrant.name,
        path=str(entrant.gguf),
        sha256=digest,
        bytes=entrant.gguf.stat().st_size,
        metrics=_metrics(questions, answers, scores),
        tokens_per_s=answers.tokens_per_s,
        answers=answers.given,
        scores=scores,
    )


def _digest(gguf: Path) -> str:
    try:
        return sha256_of(gguf)
    except OSError as error:
        raise UsageError(f"{gguf} cannot be read: {error.strerror}", remedy="Name a file you may read.") from error


def _metrics(questions: Sequence[Question], answers: Answers, scores: Sequence[Score]) -> dict[str, float]:
    found: dict[str, float] = {}
    scored = [
        (given.nats, _bytes(question))
        for question, given in zip(questions, answers.given, strict=True)
        if given.nats is not None
    ]
    if scored:
        found[LOSS] = sum(nats for nats, _ in scored) / sum(size for _, size in scored)
    return found | shares(scores)


def differences(first: Compared, second: Compared, questions: Sequence[Question]) -> list[Difference]:
    """Return the difference in every figure that both models have, over the prompts where both have it."""
    losses = [
        (one.nats, other.nats, _bytes(question))
        for question, one, other in zip(questions, first.answers, second.answers, strict=True)
        if one.nats is not None and other.nats is not None
    ]
    found = [_difference(LOSS, losses, lower_is_better=True)] if losses else []
    for name in TASKS:
        pairs = [(getattr(one, name), getattr(other, name)) for one, other in zip(first.scores, second.scores, strict=True)]
        both = [(float(one), float(other), 1.0) for one, other in pairs if one is not None and other is not None]
        if both:
            found.append(_difference(name, both, lower_is_better=False))
    return found


def _difference(name: str, told: Sequence[tuple[float, float, float]], *, lower_is_better: bool) -> Difference:
    first, second, weights = zip(*told, strict=True)
    return difference(name, first, second, weights, lower_is_better=lower_is_better)


def _bytes(question: Question) -> float:
    return float(len(question.answer.content.encode()))
