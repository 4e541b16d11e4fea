"""Record shapes to one draft: our prompt record, chats, Alpaca, ShareGPT, plain prompt. Unknown fields are kept in `extra`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from core.contract import Severity
from core.data.flaws import REMEDIES, Flaw
from core.data.turns import Turn, read_chat, read_tools

Shape = Literal["record", "chat", "alpaca", "sharegpt", "prompt"]

_MARKS: tuple[tuple[str, Shape], ...] = (
    ("messages", "chat"),
    ("conversations", "sharegpt"),
    ("user", "record"),
    ("instruction", "alpaca"),
    ("prompt", "prompt"),
)
_NAMES: Mapping[Shape, Mapping[str, str]] = {
    "record": {"system_hint": "system", "user": "user", "context": "context", "completion": "completion"},
    "alpaca": {"system": "system", "instruction": "user", "input": "input", "output": "completion"},
    "prompt": {"system": "system", "prompt": "user", "context": "context", "completion": "completion"},
}
_PLACES: Mapping[Shape, str] = {"chat": "messages", "sharegpt": "conversations"}
_FIELDS_CHARS = 300
_ANSWER_NAMES = ("completion", "response", "answer", "output", "reply", "assistant", "chosen")
_TOOL_FIELDS = ("requires_json", "tool_name", "tool_schema")
_KNOWN = frozenset({*_TOOL_FIELDS, "tools"})


@dataclass(frozen=True)
class Draft:
    """A record in the one form all shapes are read into; its texts are as the source has them.

    `history` holds the turns before the last question, `steps` the tool calls and results between it and the answer;
    `tools` and `answer_tool_calls` are in OpenAI's form.
    """

    shape: Shape
    user: str
    system: str | None = None
    context: str | None = None
    completion: str | None = None
    requires_json: bool = False
    tool_name: str | None = None
    tool_schema: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    history: tuple[Turn, ...] = ()
    steps: tuple[Turn, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    answer_tool_calls: tuple[dict[str, Any], ...] = ()

    def shaping(self) -> dict[str, Any]:
        """Return the fields a row's chat and its id depend on; those of longer chats only where they say something."""
        more: dict[str, Any] = {
            "history": [turn.given() for turn in self.history],
            "steps": [turn.given() for turn in self.steps],
            "tools": list(self.tools),
            "answer_tool_calls": list(self.answer_tool_calls),
        }
        return {
            "user": self.user,
            "system": self.system,
            "context": self.context,
            "completion": self.completion,
            "requires_json": self.requires_json,
            "tool_name": self.tool_name,
            "tool_schema": self.tool_schema,
            **{name: value for name, value in more.items() if value},
        }


def draft_of(record: dict[str, Any], shape: Literal["auto"] | Shape) -> Draft | Flaw:
    """Read a record in the given shape, or in the one it shows by its fields. A field that is null is one that is not there."""
    found = _shape_of(record) if shape == "auto" else shape
    if found is None:
        fields = ", ".join(sorted(record)[:8])[:_FIELDS_CHARS] or "no field"
        return Flaw("shape-unknown", None, record, f"no known shape has these fields: {fields}{_wrapped(record)}")
    tool = _tool_fields(record)
    if isinstance(tool, Flaw):
        return tool
    if found == "prompt" and isinstance(record.get("prompt"), list):
        return _from_chat(_joined(record), found, tool, "prompt + completion", ("prompt", "completion"))
    if found in _PLACES:
        return _from_chat(record, found, tool, _PLACES[found], (_PLACES[found],))
    return _from_fields(record, found, tool)


def _joined(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the turns of prompt and completion, as TRL has them, as one list beside them."""
    answer = record.get("completion")
    turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    return {
        **record,
        "prompt + completion": [*record["prompt"], *(turns if isinstance(turns, list) else [turns] if turns else [])],
    }


def _wrapped(record: dict[str, Any]) -> str:
    """Say which field looks like the records themselves, as in a file {"data": [...]}."""
    lists = (name for name, value in record.items() if isinstance(value, list) and value and isinstance(value[0], dict))
    name = next((name for name in lists if _shape_of(record[name][0])), None)
    return f"; {name[:40]!r} holds a list of {len(record[name])} records: save it as a file of its own" if name else ""


def stray_answer(draft: Draft) -> Flaw | None:
    """Return the warning that a row without an answer has one under a name that no shape gives it."""
    if draft.completion is not None or not draft.extra:
        return None
    for name in _ANSWER_NAMES:
        if isinstance(text := draft.extra.get(name), str) and text.strip():
            reason = f"the row has no answer, but a field {name!r}, which is kept among the unknown ones"
            return Flaw("answer-elsewhere", name, text, reason, Severity.WARNING, REMEDIES["answer-elsewhere"])
    return None


def _shape_of(record: dict[str, Any]) -> Shape | None:
    """Return the shape of the first mark that is set; in a table of several shapes the others' columns are empty."""
    set_marks = (shape for mark, shape in _MARKS if record.get(mark) is not None)
    return next(set_marks, None) or next((shape for mark, shape in _MARKS if mark in record), None)


def _tool_fields(record: dict[str, Any]) -> dict[str, Any] | Flaw:
    kinds: dict[str, type] = {"requires_json": bool, "tool_name": str, "tool_schema": dict}
    found = {name: record[name] for name in kinds if record.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, kinds[name]):
            expected = {bool: "true or false", str: "a text", dict: "an object"}[kinds[name]]
            return Flaw("field-wrong-type", name, value, f"{name} is not {expected}")
    if record.get("tools") is not None:
        tools = read_tools(record["tools"])
        if isinstance(tools, Flaw):
            return tools
        found["tools"] = tools
    return found


def _from_fields(record: dict[str, Any], shape: Shape, tool: dict[str, Any]) -> Draft | Flaw:
    texts: dict[str, str] = {}
    for source, target in _NAMES[shape].items():
        value = record.get(source)
        if value is not None and not isinstance(value, str):
            return Flaw("field-wrong-type", source, value, f"{source} is not a text")
        if value is not None:
            texts[target] = value
    history = _pairs(record.get("history")) if shape == "alpaca" else ()
    if isinstance(history, Flaw):
        return history
    known = {*_NAMES[shape], *_KNOWN, *(("history",) if shape == "alpaca" else ())}
    question, given = texts.get("user", ""), texts.get("input", "")
    return Draft(
        shape=shape,
        user=f"{question}\n\n{given}" if given.strip() else question,
        system=texts.get("system"),
        context=texts.get("context"),
        completion=texts.get("completion"),
        extra=_others(record, known),
        history=history,
        **tool,
    )


def _pairs(history: object) -> tuple[Turn, ...] | Flaw:
    """Return the turns of Alpaca's history, a list of question and answer."""
    pairs = [] if history is None else history
    turns: list[Turn] = []
    for index, pair in enumerate(pairs if isinstance(pairs, list) else [pairs]):
        place = f"history[{index}]"
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            return Flaw("field-wrong-type", place, pair, "history is not a list of question and answer")
        if not all(text.strip() for text in pair):
            return Flaw("empty-content", place, repr(pair), "a turn is empty")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return tuple(turns)


def _from_chat(
    record: dict[str, Any], shape: Shape, tool: dict[str, Any], place: str, fields: tuple[str, ...]
) -> Draft | Flaw:
    chat = read_chat(record.get(place), place)
    if isinstance(chat, Flaw):
        return chat
    system, known = chat.system, {place, *fields, *_KNOWN}
    if shape == "sharegpt" and system is None and isinstance(record.get("system"), str):
        system = record["system"]
        known.add("system")
    extra = _others(record, known)
    if not chat.whole:
        extra |= {name: record[name] for name in fields if record.get(name) is not None}
    return Draft(
        shape=shape,
        user=chat.user,
        system=system,
        completion=chat.answer.content if chat.answer else None,
        answer_tool_calls=chat.answer.tool_calls if chat.answer else (),
        history=chat.history,
        steps=chat.steps,
        **tool,
        extra=extra,
    )


def _others(record: dict[str, Any], known: set[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in known and value is not None}
