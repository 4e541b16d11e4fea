"""Record shapes to one draft: our prompt record, chat messages, plain prompt. Unknown fields are kept in `extra`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from core.data.flaws import Flaw

Shape = Literal["record", "chat", "prompt"]

_MARKS: tuple[tuple[str, Shape], ...] = (("messages", "chat"), ("user", "record"), ("prompt", "prompt"))
_NAMES: dict[Shape, dict[str, str]] = {
    "record": {"system_hint": "system", "user": "user", "context": "context", "completion": "completion"},
    "prompt": {"system": "system", "prompt": "user", "context": "context", "completion": "completion"},
}
_TOOL_FIELDS = ("requires_json", "tool_name", "tool_schema")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Draft:
    """A record in the one form all shapes are read into; its texts are as the source has them."""

    shape: Shape
    user: str
    system: str | None = None
    context: str | None = None
    completion: str | None = None
    requires_json: bool = False
    tool_name: str | None = None
    tool_schema: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def draft_of(record: dict[str, Any], shape: Literal["auto"] | Shape) -> Draft | Flaw:
    """Read a record in the given shape, or in the one it shows by its fields."""
    found = next((kind for mark, kind in _MARKS if mark in record), None) if shape == "auto" else shape
    if found is None:
        fields = ", ".join(sorted(record)[:8]) or "no field"
        return Flaw("shape-unknown", None, record, f"no known shape has these fields: {fields}")
    tool = _tool_fields(record)
    if isinstance(tool, Flaw):
        return tool
    return _from_chat(record, tool) if found == "chat" else _from_fields(record, found, tool)


def _tool_fields(record: dict[str, Any]) -> dict[str, Any] | Flaw:
    kinds: dict[str, type] = {"requires_json": bool, "tool_name": str, "tool_schema": dict}
    found = {name: record[name] for name in kinds if record.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, kinds[name]):
            expected = {bool: "true or false", str: "a text", dict: "an object"}[kinds[name]]
            return Flaw("field-wrong-type", name, value, f"{name} is not {expected}")
    return found


def _from_fields(record: dict[str, Any], shape: Shape, tool: dict[str, Any]) -> Draft | Flaw:
    texts: dict[str, str] = {}
    for source, target in _NAMES[shape].items():
        value = record.get(source)
        if value is not None and not isinstance(value, str):
            return Flaw("field-wrong-type", source, value, f"{source} is not a text")
        if value is not None:
            texts[target] = value
    known = {*_NAMES[shape], *_TOOL_FIELDS}
    extra = {name: value for name, value in record.items() if name not in known}
    return Draft(
        shape=shape,
        user=texts.get("user", ""),
        system=texts.get("system"),
        context=texts.get("context"),
        completion=texts.get("completion"),
        extra=extra,
        **tool,
    )


def _from_chat(record: dict[str, Any], tool: dict[str, Any]) -> Draft | Flaw:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return Flaw("field-wrong-type", "messages", messages, "messages is not a list of objects")
    if flaw := _first_flaw(messages):
        return flaw
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    turns = messages[1:] if system is not None else messages
    if [turn["role"] for turn in turns] not in (["user"], ["user", "assistant"]):
        roles = ", ".join(turn["role"] for turn in turns)[:80]
        return Flaw("chat-not-one-turn", "messages", roles, f"the turns are {roles or 'none'}, not user, assistant")
    extra = {k: v for k, v in record.items() if k not in {"messages", *_TOOL_FIELDS}}
    if any(set(message) - {"role", "content"} for message in messages):
        extra["messages"] = messages
    completion = turns[1]["content"] if len(turns) > 1 else None
    return Draft(shape="chat", user=turns[0]["content"], system=system, completion=completion, **tool, extra=extra)


def _first_flaw(messages: list[dict[str, Any]]) -> Flaw | None:
    for index, message in enumerate(messages):
        place = f"messages[{index}]"
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            return Flaw("role-unknown", f"{place}.role", role, f"{str(role)[:40]!r} is no role edgekiln knows")
        if not isinstance(content, str):
            return Flaw("field-wrong-type", f"{place}.content", content, "content is not a text")
        if role == "system" and index > 0:
            return Flaw("system-not-first", f"{place}.role", content, f"the system message is number {index + 1}")
    return None
