"""The prompts models are compared on: held-out labelled rows, their last turn the answer that was hoped for."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.contract import Contract, Stage
from core.data.record import LabeledRow, Message
from core.errors import BrokenRecord, SourceEmpty, SourceMissing
from core.files import digest_of, read_json_lines
from core.lineage import ancestors
from core.nouns import GgufModel, LabeledDataset
from core.workspace import Workspace, verify

_SHORT = 40  # characters: a longer free text is never expected word for word
_REMEDY = "Name a file of labelled rows, as a labelling's held_out.jsonl: one JSON object a line with messages."


class Question(Contract):
    """A prompt and the answer that was hoped for."""

    row_id: str
    messages: tuple[Message, ...]
    answer: Message
    requires_json: bool = False
    tool_schema: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def is_json(self) -> bool:
        """Whether an answer has to be JSON."""
        return self.requires_json or self.tool_schema is not None

    @property
    def is_task(self) -> bool:
        """Whether an answer can be right or wrong, beside being likely or not."""
        return self.is_json or bool(self.answer.tool_calls) or self.is_short

    @property
    def is_short(self) -> bool:
        """Whether the answer is one that is expected word for word: a number, a name, a label."""
        text = self.answer.content.strip()
        return bool(text) and len(text) <= _SHORT and "\n" not in text


def of_rows(rows: Iterable[LabeledRow]) -> Iterator[Question]:
    """Yield rows as questions."""
    for row in rows:
        yield Question(
            row_id=row.row_id,
            messages=row.messages[:-1],
            answer=row.messages[-1],
            requires_json=row.requires_json,
            tool_schema=row.tool_schema,
            tools=row.tools,
        )


def of_model(workspace: Workspace, model: GgufModel, most: int) -> tuple[Question, ...]:
    """Return the held-out rows of the labelling a model comes from; FileTampered or ArtifactMissing where it is not whole."""
    labeled = next(one for one in ancestors(workspace, model) if isinstance(one, LabeledDataset))
    verify(workspace, labeled)
    return of_file(workspace.folder(Stage.LABEL, labeled.artifact_id) / "held_out.jsonl", most)


def of_file(path: Path, most: int) -> tuple[Question, ...]:
    """Read labelled rows from a file, a sample of at most so many; SourceMissing, BrokenRecord with file and line, SourceEmpty."""
    try:
        found = sampled(of_rows(_rows(path)), most)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise SourceMissing(f"{path}: {error.strerror}", remedy=_REMEDY) from error
    if not found:
        raise SourceEmpty(f"{path} holds no rows", remedy=_REMEDY)
    return found


def sampled(questions: Iterable[Question], most: int) -> tuple[Question, ...]:
    """Return the questions of the lowest hashes, in their own order: of more rows, the same ones but for those that came in.

    What is hashed is what is asked and hoped for, not the row's id, which may be its line.
    """
    chosen = heapq.nsmallest(most, ((_hash(one), place, one) for place, one in enumerate(questions)), key=itemgetter(0, 1))
    return tuple(one for _, _, one in sorted(chosen, key=itemgetter(1)))


def _hash(question: Question) -> str:
    return digest_of(question.model_dump(mode="json", exclude={"row_id"}))


def _rows(path: Path) -> Iterable[LabeledRow]:
    for number, record in enumerate(_records(path), 1):
        try:
            row = LabeledRow.model_validate({"row_id": str(number), "split": "held_out", **record})
        except (ValidationError, TypeError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is no object"
            raise BrokenRecord(f"{path}:{number}: {why}", remedy=_REMEDY) from error
        if len(row.messages) < 2 or row.messages[-1].role != "assistant":
            raise BrokenRecord(f"{path}:{number}: its last of >= 2 messages is not the assistant's", remedy=_REMEDY)
        yield row


def _records(path: Path) -> Iterable[dict[str, Any]]:
    try:
        yield from read_json_lines(path)
    except ValueError as error:
        raise BrokenRecord(f"{path} is not JSON lines: {error}", remedy=_REMEDY) from error


def have_tasks(questions: Sequence[Question]) -> bool:
    """Say whether any answer can be right or wrong."""
    return any(question.is_task for question in questions)
