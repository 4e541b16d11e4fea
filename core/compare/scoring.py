"""What of an answer is right: JSON, schema, tool and arguments, the very text. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from core.compare.answers import Given
from core.compare.questions import Question
from core.contract import Contract
from core.data.record import Message
from core.data.schemas import parse_json, value_fault
from core.files import canonical_json

TASKS = ("exact_match", "json_valid", "schema_valid", "tool_name", "tool_arguments")


class Score(Contract):
    """What of one answer is right, None where the question does not ask for it.

    `exact_match`: JSON of the same value, the same tool calls, or the same text where that is short.
    """

    exact_match: bool | None = None
    json_valid: bool | None = None
    schema_valid: bool | None = None
    tool_name: bool | None = None
    tool_arguments: bool | None = None


def score(question: Question, given: Given) -> Score:
    """Judge one answer; one that was cut short or not given is wrong in all that is asked."""
    whole = given.finish_reason in {"stop", "tool_calls"}
    if question.answer.tool_calls:
        return _of_calls(question.answer, given, whole=whole)
    if question.is_json:
        return _of_json(question, given, whole=whole)
    if question.is_short:
        return Score(exact_match=whole and _plain(given.text) == _plain(question.answer.content))
    return Score()


def shares(scores: Iterable[Score]) -> dict[str, float]:
    """Return the share of right answers by task, over the prompts that ask for it; a task nobody asks for is absent."""
    told = list(scores)
    said = {name: [value for one in told if (value := getattr(one, name)) is not None] for name in TASKS}
    return {name: sum(values) / len(values) for name, values in said.items() if values}


def of_teacher(question: Question) -> Score:
    """Judge the answer that was hoped for as if a model had given it."""
    hoped = question.answer
    calls = tuple(dict(call) for call in hoped.tool_calls)
    return score(question, Given(row_id=question.row_id, text=hoped.content, tool_calls=calls, finish_reason="stop"))


def _of_calls(hoped: Message, given: Given, *, whole: bool) -> Score:
    names = whole and [_name(call) for call in given.tool_calls] == [_name(call) for call in hoped.tool_calls]
    same = names and [_arguments(call) for call in given.tool_calls] == [_arguments(call) for call in hoped.tool_calls]
    return Score(exact_match=same, tool_name=names, tool_arguments=same)


def _of_json(question: Question, given: Given, *, whole: bool) -> Score:
    value, fault = parse_json(given.text)
    valid = whole and fault is None
    hoped, unreadable = parse_json(question.answer.content)
    exact = None if unreadable else valid and canonical_json(value) == canonical_json(hoped)
    schema = question.tool_schema
    fits = None if schema is None else valid and value_fault(schema, value) is None
    return Score(exact_match=exact, json_valid=valid, schema_valid=fits)


def _name(call: dict[str, Any]) -> object:
    return call.get("function", {}).get("name")


def _arguments(call: dict[str, Any]) -> bytes | None:
    value, fault = parse_json(str(call.get("function", {}).get("arguments", "")))
    return None if fault else canonical_json(value)


def _plain(text: str) -> str:
    return " ".join(text.split())
