"""The rows that flow between stages: prompts, answers, and what was set aside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from core.contract import Contract
from core.files import read_json_lines

Split = Literal["train", "held_out"]


class Message(Contract):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptRow(Contract):
    """A validated prompt. `system` and `context` are shown to the teacher; `completion` is set when the source has one."""

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


class LabeledRow(Contract):
    """A chat the student learns: the last message is the assistant's answer and the only one trained on."""

    row_id: str
    split: Split
    messages: tuple[Message, ...]
    requires_json: bool = False
    tool_schema: dict[str, Any] | None = None


class Reject(Contract):
    """A row that was set aside; `where` is file:line, `excerpt` at most 200 characters of the value."""

    where: str
    code: str
    field: str | None
    excerpt: str
    reason: str
    remedy: str


class TokenisedRow(Contract):
    """A chat as token ids after the student's template; `completion_mask` is 1 on the tokens that are trained and scored."""

    row_id: str
    input_ids: tuple[int, ...]
    completion_mask: tuple[int, ...]


def read_prompts(path: Path) -> Iterator[PromptRow]:
    """Yield the rows of a Dataset's `rows.jsonl`."""
    return (PromptRow.model_validate(record) for record in read_json_lines(path))


def read_labeled(path: Path) -> Iterator[LabeledRow]:
    """Yield the rows of a LabeledDataset's `train.jsonl` or `held_out.jsonl`."""
    return (LabeledRow.model_validate(record) for record in read_json_lines(path))
