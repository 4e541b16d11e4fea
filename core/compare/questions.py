"""The prompts models are compared on: held-out labelled rows, their last turn the answer that was hoped for."""

from __future__ import annotations

import heapq
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from operator import itemgetter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.contract import Contract, Stage
from core.data.record import LabeledRow, Message
from core.data.schemas import parse_json, schema_fault
from core.errors import BrokenRecord, SourceEmpty, SourceMissing
from core.files import canonical_json, digest_of
from core.lineage import ancestors
from core.nouns import GgufModel, LabeledDataset
from core.report.visible import visible
from core.workspace import Workspace, verify

_SHORT = 40  # characters: a longer free text is never expected word for word
_MAX_LINE_BYTES = 16 << 20  # a row is a chat
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


def text_of(message: Message) -> str:
    """Return a turn as a person reads it: its text, and its tool calls in words."""
    calls = (call.get("function", {}) for call in message.tool_calls)
    return "\n".join(
        [message.content] * bool(message.content) + [f"{one.get('name')}({one.get('arguments')})" for one in calls]
    )


def _rows(path: Path) -> Iterator[LabeledRow]:
    for number, line in _lines(path):
        try:
            yield _row(number, line)
        except ValueError as error:
            raise BrokenRecord(f"{path}:{number}: {error}", remedy=_REMEDY) from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that say something with their numbers; who names a device does not fill the memory."""
    with path.open("rb") as stream:
        for number in count(1):
            line = stream.readline(_MAX_LINE_BYTES + 1)
            if len(line) > _MAX_LINE_BYTES:
                raise BrokenRecord(f"{path}:{number}: the line has > {_MAX_LINE_BYTES} bytes", remedy=_REMEDY)
            if not line:
                return
            if line := line.removeprefix(BOM_UTF8).strip():
                yield number, line


def _row(number: int, line: bytes) -> LabeledRow:
    """Return a line as a row; ValueError says in one line why it is none."""
    record, fault = parse_json(line.decode())
    if fault or not isinstance(record, dict):
        raise ValueError(f"it is no JSON object: {fault or f'it is {type(record).__name__}'}")
    canonical_json(record)  # halves of characters and numbers that are none cannot be sent, nor hashed
    row = _validated({"row_id": str(number), "split": "held_out", **record})
    if len(row.messages) < 2 or row.messages[-1].role != "assistant":
        raise ValueError("its last of >= 2 messages is not the assistant's")
    if not all(map(_is_call, chain.from_iterable(message.tool_calls for message in row.messages))):
        raise ValueError('a tool call is not of the form {"function": {"name": TEXT, "arguments": TEXT}}')
    if row.tool_schema is not None and (fault := schema_fault(row.tool_schema)):
        raise ValueError(f"its tool_schema cannot be used: {fault}")
    return row


def _validated(record: dict[str, Any]) -> LabeledRow:
    try:
        return LabeledRow.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{visible('.'.join(map(str, first['loc'])))}: {first['msg']}") from error


def _is_call(call: dict[str, Any]) -> bool:
    function = call.get("function")
    return isinstance(function, dict) and all(isinstance(function.get(name), str) for name in ("name", "arguments"))


def have_tasks(questions: Sequence[Question]) -> bool:
    """Say whether any answer can be right or wrong."""
    return any(question.is_task for question in questions)
