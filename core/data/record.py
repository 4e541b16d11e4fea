"""The rows that flow between stages: prompts, answers, and what was set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from operator import not_
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from core.contract import Contract, Severity
from core.files import read_json_lines

Split = Literal["train", "held_out"]
AssistantTurns = Literal["all", "last"]  # of a chat, which are learned

_ANY_OBJECT = {"type": "object"}


class Message(Contract):
    """One turn of a chat; `tool_calls` are in OpenAI's form, their arguments a JSON text.

    What is empty is not written: requests and rows without tools are the same bytes, and so have the same hashes, as
    before there were any.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=not_)
    tool_call_id: str | None = Field(default=None, exclude_if=not_)
    name: str | None = Field(default=None, exclude_if=not_)

    def for_template(self) -> dict[str, Any]:
        """Return the turn as chat templates take it: the arguments of tool calls as objects, where their text is JSON."""
        return {
            **self.model_dump(),
            **({"tool_calls": [_unfolded(call) for call in self.tool_calls]} if self.tool_calls else {}),
        }


def _unfolded(call: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(call["function"]["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _is_none(value: object) -> bool:
    return value is None


class PromptRow(Contract):
    """A validated prompt. `system` and `context` are shown to the teacher; `completion` is set when the source has one.

    `history` holds the turns before the question, `steps` the tool calls and results between it and the answer.
    """

    row_id: str
    split: Split
    system: str | None
    context: str | None
    user: str
    requires_json: bool = False
    tool_name: str | None = None
    tool_schema: dict[str, Any] | None = None
    completion: str | None = None
    extra: dict[str, Any] = {}
    history: tuple[Message, ...] = Field(default=(), exclude_if=not_)
    steps: tuple[Message, ...] = Field(default=(), exclude_if=not_)
    tools: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=not_)
    answer_tool_calls: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=not_)


class LabeledRow(Contract):
    """A chat the student learns: the last message is the assistant's answer, the only one of a held-out chat that is scored.

    `quality` is its score in [0, 1]; `consistency` says how far the teacher's samples agree, `confidence` is the geometric
    mean of the answer's token probabilities.
    """

    row_id: str
    split: Split
    messages: tuple[Message, ...]
    requires_json: bool = False
    tool_schema: dict[str, Any] | None = None
    tools: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=not_)
    quality: float | None = Field(default=None, exclude_if=_is_none)
    consistency: float | None = Field(default=None, exclude_if=_is_none)
    confidence: float | None = Field(default=None, exclude_if=_is_none)


class Reject(Contract):
    """A row that was set aside, or with severity warning kept; `where` is file:line, `excerpt` at most 200 characters.

    `row_id` is there where the record could be read; `texts` are those of a row set aside, for whoever mends it.
    """

    where: str
    code: str
    field: str | None
    excerpt: str
    reason: str
    remedy: str
    severity: Severity = Severity.ERROR
    row_id: str | None = Field(default=None, exclude_if=not_)
    texts: dict[str, str] | None = Field(default=None, exclude_if=not_)


class TokenisedRow(Contract):
    """A chat as token ids after the student's template; `completion_mask` is 1 on the tokens that are trained and scored.

    `last_turn` says where the last of several assistant turns begins, behind the tokens where truncation took it. A row of
    an earlier turn alone is `turn_of` the row whose chat it is from.
    """

    row_id: str
    input_ids: tuple[int, ...]
    completion_mask: tuple[int, ...]
    last_turn: int | None = Field(default=None, exclude_if=_is_none)
    turn_of: str | None = Field(default=None, exclude_if=_is_none)

    @property
    def answer_start(self) -> int:
        """The place of the first token of the last assistant turn; there is none where truncation took it."""
        return self.completion_mask.index(1) if self.last_turn is None else self.last_turn


def messages_for(row: PromptRow) -> tuple[Message, ...]:
    """Return what the teacher is shown: the hint as system, earlier turns, the context as documentation before the question."""
    system = "\n\n".join(part for part in (row.system, _json_instruction(row)) if part)
    user = f"Documentation:\n{row.context}\n\n{row.user}" if row.context else row.user
    head = (Message(role="system", content=system),) if system else ()
    return (*head, *row.history, Message(role="user", content=user), *row.steps)


def _json_instruction(row: PromptRow) -> str | None:
    schema = schema_of(row)
    if schema is None:
        return None
    target = f" for {row.tool_name}" if row.tool_name else ""
    return f"Answer only with JSON{target} that fits this JSON Schema: {json.dumps(schema, ensure_ascii=False, sort_keys=True)}"


def schema_of(row: PromptRow) -> dict[str, Any] | None:
    """Return the JSON Schema a row's answer must fit, None when it may be any text."""
    if not row.requires_json:
        return None
    return row.tool_schema or _ANY_OBJECT


def student_messages(row: PromptRow, context_distillation: bool) -> tuple[Message, ...]:
    """Return what the student is shown; with context distillation it must answer without hint and context."""
    bare = (*row.history, Message(role="user", content=row.user), *row.steps)
    return bare if context_distillation else messages_for(row)


def read_prompts(folder: Path) -> Iterator[PromptRow]:
    """Yield the rows in the folder of a Dataset; this is the only door to them."""
    from core.data import rows_file  # Arrow is loaded where rows are read, not where a row is named

    return (PromptRow.model_validate(record) for record in rows_file.read_rows(folder / rows_file.FILE))


def read_labeled(path: Path) -> Iterator[LabeledRow]:
    """Yield the rows of a LabeledDataset's `train.jsonl` or `held_out.jsonl`."""
    return (LabeledRow.model_validate(record) for record in read_json_lines(path))
