"""Chats to turns: OpenAI messages and ShareGPT conversations read into one form, their order judged, cut into question and answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from core.data.flaws import Flaw
from core.data.parsing import parse_value

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",  # OpenAI's name before tools
}
_SPEAKERS: Mapping[str, Role] = {
    **_ROLES,
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_CARRIED: Mapping[Role, frozenset[str]] = {
    "system": frozenset({"role", "content"}),
    "user": frozenset({"role", "content"}),
    "assistant": frozenset({"role", "content", "tool_calls", "function_call"}),
    "tool": frozenset({"role", "content", "tool_call_id", "name"}),
}
_SPOKEN = frozenset({"from", "value"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a chat; `tool_calls` are in OpenAI's form, their arguments a JSON text."""

    role: Role
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that say something, as a core.data.record.Message has them."""
        found: dict[str, Any] = {"role": self.role, "content": self.content}
        more = (("tool_calls", self.tool_calls), ("tool_call_id", self.tool_call_id), ("name", self.name))
        return found | {name: value for name, value in more if value}


@dataclass(frozen=True)
class Chat:
    """A chat cut at its last question: turns before it, tool steps behind it, and the answer if there is one.

    `whole` is False when a message has fields that are found nowhere here.
    """

    system: str | None
    history: tuple[Turn, ...]
    user: str
    steps: tuple[Turn, ...]
    answer: Turn | None
    whole: bool


def read_chat(messages: object, place: str) -> Chat | Flaw:
    """Read the list in field `place`; a flaw names the message as `place[i]`, counted from 0."""
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        return Flaw("field-wrong-type", place, messages, f"{place} is not a list of objects")
    turns: list[Turn] = []
    for index, message in enumerate(messages):
        turn = _turn(message, f"{place}[{index}]")
        if isinstance(turn, Flaw):
            return turn
        if turn.role == "system" and index > 0:
            reason = f"the system message is number {index + 1}"
            return Flaw("system-not-first", f"{place}[{index}].role", turn.content, reason)
        turns.append(turn)
    return _misplaced(turns, place) or _cut(turns, all(map(_is_whole, messages, turns)))


def _turn(message: dict[str, Any], place: str) -> Turn | Flaw:
    """Read one message of either dialect."""
    spoken = "from" in message
    who, field = (message["from"], "value") if spoken else (message.get("role"), "content")
    role = (_SPEAKERS if spoken else _ROLES).get(who) if isinstance(who, str) else None
    if role is None:
        field = "from" if spoken else "role"
        return Flaw("role-unknown", f"{place}.{field}", who, f"{str(who)[:40]!r} is no role edgekiln knows")
    content = _text(message.get(field))
    if spoken and who == "function_call":
        calls, content = read_calls(content, f"{place}.value"), ""
    else:
        calls = _calls_in(message, place) if role == "assistant" else ()
    if isinstance(calls, Flaw):
        return calls
    if content is None and (not calls or message.get(field) is not None):
        return Flaw("field-wrong-type", f"{place}.{field}", message.get(field), f"{field} is not a text")
    if not calls and role != "system" and not (content or "").strip():
        return Flaw("empty-content", f"{place}.{field}", content, "the turn is empty")
    return _tool_turn(message, content or "") if role == "tool" else Turn(role, content or "", calls)


def _tool_turn(message: dict[str, Any], content: str) -> Turn:
    call_id, name = message.get("tool_call_id"), message.get("name")
    return Turn(
        "tool",
        content,
        tool_call_id=call_id if isinstance(call_id, str) else None,
        name=name if isinstance(name, str) else None,
    )


def _text(content: object) -> str | None:
    """Return a content's text: itself, or that of a list of text parts; None when it is neither."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(cast(list[str], parts)) if all(isinstance(part, str) for part in parts) else None


def _calls_in(message: dict[str, Any], place: str) -> tuple[dict[str, Any], ...] | Flaw:
    name = "tool_calls" if message.get("tool_calls") is not None else "function_call"
    value = message.get(name)
    return () if value is None or value == [] else read_calls(value, f"{place}.{name}")


def read_calls(value: object, place: str) -> tuple[dict[str, Any], ...] | Flaw:
    """Return tool calls in OpenAI's form from a call, a list of calls, or the JSON text of either."""
    parsed = parse_value(value) if isinstance(value, str) else value
    calls = [_call(call) for call in parsed] if isinstance(parsed, list) else [_call(parsed)]
    found = tuple(call for call in calls if call is not None)
    if len(found) < len(calls) or not calls:
        return Flaw("tool-call-broken", place, value, "a tool call has no name with arguments")
    return found


def _call(call: object) -> dict[str, Any] | None:
    inner = call.get("function", call) if isinstance(call, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(call, dict) or not isinstance(inner, dict) or not isinstance(name, str) or not name:
        return None
    arguments = inner.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    told = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**told, "type": "function", "function": {"name": name, "arguments": arguments}}


def read_tools(value: object) -> tuple[dict[str, Any], ...] | Flaw:
    """Return the offered tools in OpenAI's form from a list of them, bare or wrapped, or from its JSON text."""
    parsed = parse_value(value) if isinstance(value, str) and value.strip() else value
    tools = [_tool(tool) for tool in parsed] if isinstance(parsed, list) else None
    found = tuple(tool for tool in tools or () if tool is not None)
    if tools is None or len(found) < len(tools):
        return Flaw("field-wrong-type", "tools", value, "tools is not a list of functions with a name")
    return found


def _tool(tool: object) -> dict[str, Any] | None:
    inner = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str) or not inner["name"]:
        return None
    return tool if isinstance(tool, dict) and "function" in tool else {"type": "function", "function": inner}


def _misplaced(turns: Sequence[Turn], place: str) -> Flaw | None:
    """Return the first turn that may not stand where it stands."""
    first = 1 if turns[0].role == "system" else 0
    roles = ", ".join(turn.role for turn in turns)[:80]
    if all(turn.role != "user" for turn in turns):
        return Flaw("chat-no-question", place, roles, f"the turns are {roles}, none is the user's")
    if turns[first].role != "user":
        return Flaw("first-turn-not-user", f"{place}[{first}].role", roles, f"the first turn is the {turns[first].role}'s")
    for index in range(first + 1, len(turns)):
        turn, before = turns[index], turns[index - 1]
        if turn.role == before.role != "tool":
            return Flaw("role-repeated", f"{place}[{index}].role", roles, f"two turns in a row are the {turn.role}'s")
        if turn.role == "tool" and not (before.role == "tool" or before.tool_calls):
            return Flaw("tool-without-call", f"{place}[{index}].role", roles, "a tool speaks that was not called")
    return None


def _cut(turns: Sequence[Turn], whole: bool) -> Chat:
    system = turns[0].content if turns[0].role == "system" else None
    last = max(index for index, turn in enumerate(turns) if turn.role == "user")
    after = turns[last + 1 :]
    answer = after[-1] if after and after[-1].role == "assistant" else None
    return Chat(
        system=system,
        history=tuple(turns[0 if system is None else 1 : last]),
        user=turns[last].content,
        steps=tuple(after[:-1] if answer else after),
        answer=answer,
        whole=whole,
    )


def _is_whole(message: dict[str, Any], turn: Turn) -> bool:
    carried = _SPOKEN if "from" in message else _CARRIED[turn.role]
    return all(name in carried or value is None for name, value in message.items())
