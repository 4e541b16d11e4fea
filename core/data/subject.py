"""What the rules judge: the texts, schemas and tool calls of one row, whether it is a draft, a prompt or a labelled chat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from core.data.phrases import holds_phrase
from core.data.record import PromptRow
from core.data.shapes import Draft


@dataclass(frozen=True)
class ToolCall:
    """A call an assistant turn makes; `arguments` are as the source has them, a text or an object."""

    name: object
    arguments: object


@dataclass(frozen=True)
class Subject:
    """One row as the rules see it; `answer` is None when it is not labelled yet.

    `turns` are the texts of the turns before the question and between it and the answer, by place. `calls` are those of all
    turns; `answer_calls` says that the answer itself makes one, and so may say nothing.
    """

    user: str
    answer: str | None = None
    system: str | None = None
    context: str | None = None
    requires_json: bool = False
    tool_schema: dict[str, Any] | None = None
    turns: tuple[tuple[str, str], ...] = ()
    tools: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)
    calls: tuple[ToolCall, ...] = ()
    answer_calls: bool = False

    @cached_property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """The texts that are there, by field."""
        named = (("user", self.user), ("system", self.system), ("context", self.context), ("completion", self.answer))
        return (*((name, text) for name, text in named if text), *self.turns)

    @cached_property
    def spoken(self) -> tuple[tuple[str, str], ...]:
        """The question and, unless it is JSON, the answer: what is judged as prose."""
        return tuple((name, text) for name, text in (("user", self.user), ("completion", self.prose)) if text)

    @cached_property
    def prose(self) -> str:
        """The answer where it is prose, else nothing."""
        return "" if self.answer is None or self.requires_json or self.answer_calls else self.answer

    @cached_property
    def phrased(self) -> bool:
        """Whether a phrase of configs/phrases may stand in the question or in the prose of the answer."""
        return holds_phrase(f"{self.user}\n{self.prose}")


def subject_of(
    row: Draft | PromptRow, answer: str | None = None, answer_tool_calls: Sequence[Mapping[str, Any]] = ()
) -> Subject:
    """Read a draft or a prompt; a teacher's answer and its tool calls take the place of the row's own."""
    own_calls = answer_tool_calls or row.answer_tool_calls
    turns = (*row.history, *row.steps)
    calls = [call for turn in turns for call in turn.tool_calls]
    return Subject(
        user=row.user,
        answer=row.completion if answer is None else answer,
        system=row.system,
        context=row.context,
        requires_json=row.requires_json,
        tool_schema=row.tool_schema,
        turns=tuple((f"turn {number}", turn.content) for number, turn in enumerate(turns, start=1) if turn.content),
        tools=_tools_of(row.tools),
        calls=_calls_of([*calls, *own_calls]),
        answer_calls=bool(own_calls),
    )


def _tools_of(tools: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any] | None]:
    """Return the parameter schema of each tool, which are in OpenAI's form, by name."""
    functions = [tool["function"] for tool in tools]
    return {tool["name"]: schema if isinstance(schema := tool.get("parameters"), dict) else None for tool in functions}


def _calls_of(calls: Iterable[Mapping[str, Any]]) -> tuple[ToolCall, ...]:
    """Return calls, which are in OpenAI's form, in order."""
    functions = (call.get("function", {}) for call in calls)
    return tuple(ToolCall(function.get("name"), function.get("arguments")) for function in functions)
