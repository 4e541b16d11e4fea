"""Tool calls of models on this machine: whether a chat template shows the tools, and calls apart from an answer's text."""

from __future__ import annotations

import re
from typing import Any

from core.data.flaws import Flaw
from core.data.parsing import parse_value
from core.data.turns import read_calls
from core.label.request import Reply, Request
from core.label.teachers import Trouble

_MARKED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)  # as Hermes and Qwen write them
_THOUGHT_END = "</think>"


def unseen_tools() -> Trouble:
    """Return what becomes of a request whose tools the chat template leaves out: an answer would not know of them."""
    return Trouble(
        reason="the teacher's chat template shows it no tools, and the row offers some",
        retryable=False,
        code="teacher-refused",
    )


def with_calls_apart(request: Request, outcome: Reply | Trouble) -> Reply | Trouble:
    """Return an answer as an endpoint gives it: tool calls in OpenAI's form, beside the text that is no call.

    Calls are `<tool_call>` blocks, or all of an answer where it is the JSON of calls of offered tools (Llama, Mistral). A
    block that cannot be read is a Trouble.
    """
    if isinstance(outcome, Trouble) or not request.tools or outcome.finish_reason != "stop":
        return outcome
    blocks = _MARKED.findall(outcome.text)
    said = blocks or _bare(request, outcome.text)
    found = [call for text in said for call in _calls(text)]
    if any(isinstance(call, Flaw) for call in found):
        reason = f"its tool call cannot be read: {' '.join(said[0].split())[:120]}"
        return Trouble(reason=reason, retryable=False, code="teacher-tool-call")
    if not found:
        return outcome
    text = _MARKED.sub("", outcome.text).strip() if blocks else ""
    return outcome.model_copy(update={"text": text, "tool_calls": tuple(found), "finish_reason": "tool_calls"})


def _bare(request: Request, text: str) -> list[str]:
    """Return an answer that is nothing but calls of offered tools, an empty list for any other."""
    answer = text.rpartition(_THOUGHT_END)[2].strip()
    if request.answer_schema is not None or not answer.startswith(("{", "[")):
        return []
    offered = {tool["function"]["name"] for tool in request.tools}
    calls = _calls(answer)
    named = [call["function"]["name"] for call in calls if isinstance(call, dict)]
    return [answer] if named and len(named) == len(calls) and offered.issuperset(named) else []


def _calls(text: str) -> list[dict[str, Any] | Flaw]:
    value = parse_value(text.strip())
    calls = [_renamed(call) for call in value] if isinstance(value, list) else _renamed(value)
    found = read_calls(calls, "tool_calls")
    return [found] if isinstance(found, Flaw) else list(found)


def _renamed(call: object) -> object:
    """Return a call with its arguments under the name that OpenAI gives them; Llama's are `parameters`."""
    if isinstance(call, dict) and "parameters" in call and "arguments" not in call:
        return {"name": call.get("name"), "arguments": call["parameters"]}
    return call
