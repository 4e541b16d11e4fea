"""The rows of a Dataset as questions for a teacher, read as a stream, and how many of them are still open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import compress
from pathlib import Path
from typing import Any

from core.contract import Stage
from core.data.limits import PrivacyLimits
from core.data.name_finders import NameFinder, load_name_finder
from core.data.privacy import redact
from core.data.record import Message, PromptRow, read_prompts
from core.label.ask import Problem, first_request, schema_problem
from core.label.ledger import Ledger
from core.label.outcome import follow
from core.label.request import Request
from core.label.section import LabelConfig
from core.nouns import Dataset
from core.workspace import Workspace

_SENT = ("system", "context", "user", "history", "steps", "tools", "tool_name", "tool_schema")


@dataclass(frozen=True)
class Question:
    """A row as it is asked: one request a sample, none where the row has its answer or cannot be asked."""

    row: PromptRow
    requests: tuple[Request, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True)
class Questions:
    """The questions of a Dataset's folder; with `privacy` its personal data is replaced before anybody sees it."""

    folder: Path
    teacher: str
    config: LabelConfig
    privacy: PrivacyLimits | None

    def __iter__(self) -> Iterator[Question]:
        return map(self._question, read_prompts(self.folder))

    def firsts(self) -> Iterator[Request]:
        """Yield the first request of every question, sample by sample."""
        for question in self:
            yield from question.requests

    def _question(self, row: PromptRow) -> Question:
        if row.completion is not None:
            return Question(row)
        asked = redacted(row, self.privacy) if self.privacy else row
        if isinstance(asked, Problem):
            return Question(row, problem=asked)
        if problem := schema_problem(asked):  # as redaction leaves it
            return Question(row, problem=problem)
        samples = range(self.config.samples.count)
        return Question(asked, tuple(first_request(asked, self.teacher, self.config, sample) for sample in samples))


def redacted(row: PromptRow, limits: PrivacyLimits) -> PromptRow | Problem:
    """Return a row with placeholders for personal data in all that is sent of it, or why it cannot be asked."""
    texts: dict[str, Any] = {name: value for name, value in row.model_dump(mode="json").items() if name in _SENT and value}
    cleaned = redact(texts, limits, name_finder(limits))
    if cleaned.refusal:
        return Problem(code=cleaned.refusal.code, reason=cleaned.refusal.reason)
    told: dict[str, Any] = cleaned.tree
    told |= {name: tuple(map(Message.model_validate, told[name])) for name in ("history", "steps") if name in told}
    told |= {"tools": tuple(told["tools"])} if "tools" in told else {}
    return row.model_copy(update=told)


@lru_cache(maxsize=1)
def name_finder(limits: PrivacyLimits) -> NameFinder | None:
    """Return what finds names of people where they are to be replaced, None where they are not."""
    return load_name_finder(limits.model_copy(update={"redact": True}))


def questions_of(dataset: Dataset, config: LabelConfig, teacher: str, workspace: Workspace) -> Questions:
    """Return a Dataset's questions; personal data is looked for as the dataset's own limits say, where it is to be."""
    privacy = PrivacyLimits.model_validate(dataset.config["privacy"]) if config.redact else None
    return Questions(workspace.folder(Stage.DATA, dataset.artifact_id), teacher, config, privacy)


@dataclass
class Survey:
    """How the questions stand before a session: how many there are, are settled, and were under way when a process ended.

    `failed` of the settled have no completion, rows that cannot be asked among them.
    """

    settled: int = 0
    failed: int = 0
    in_flight: int = 0
    is_open: bytearray = field(default_factory=bytearray)

    @property
    def questions(self) -> int:
        """How many there are."""
        return len(self.is_open)

    @property
    def open(self) -> int:
        """How many are to be asked."""
        return self.questions - self.settled

    def opened(self, questions: Questions) -> Iterator[Request]:
        """Yield the first request of each question that is to be asked."""
        return compress(questions.firsts(), self.is_open)


def survey(questions: Questions, ledger: Ledger) -> Survey:
    """Look every question up in the ledger."""
    found = Survey()
    for question in questions:
        found.failed += question.problem is not None
        for first in question.requests:
            look_up(first, ledger, found)
    return found


def look_up(first: Request, ledger: Ledger, found: Survey) -> None:
    """Count how the question that begins with a request stands."""
    outcome = follow(first, ledger)
    found.is_open.append(outcome.missing is not None)
    if outcome.missing is None:
        found.settled += 1
        found.failed += outcome.completion is None
        return
    entry = ledger.find(outcome.missing.key)
    found.in_flight += entry is not None and entry.state == "waiting"
