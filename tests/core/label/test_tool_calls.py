"""Tool calls of local models in the ways chat templates have them written, read into the form an endpoint gives."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.record import Message
from core.label.request import Reply, Request
from core.label.teachers import Trouble
from core.label.tool_calls import with_calls_apart

NAMES = ("weather", "mail")
ARGUMENTS = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9), max_size=3)
CALLS = st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3)


def _request(**more: Any) -> Request:
    tools = tuple({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in NAMES)
    messages = (Message(role="user", content="Weather?"),)
    return Request(teacher="t", messages=messages, temperature=0.0, max_tokens=9, seed=1, **{"tools": tools, **more})


def _reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, prompt_tokens=5, completion_tokens=2, latency_ms=1.5)


def _said_as_hermes(calls: list[tuple[str, Any]]) -> str:
    blocks = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def _said_as_mistral(calls: list[tuple[str, Any]]) -> str:
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in calls])


def _said_as_llama(calls: list[tuple[str, Any]]) -> str:
    ((name, arguments), *_) = calls
    return json.dumps({"name": name, "parameters": arguments})


@pytest.mark.parametrize("write", [_said_as_hermes, _said_as_mistral, _said_as_llama])
@given(CALLS)
def test_calls_come_out_as_an_endpoint_gives_them(write, calls: list[tuple[str, Any]]) -> None:
    told = with_calls_apart(_request(), _reply(f"<think>Hm.</think>{write(calls)}"))
    assert isinstance(told, Reply)
    assert told.finish_reason == "tool_calls"
    expected = calls[:1] if write is _said_as_llama else calls
    assert [(call["type"], call["function"]["name"]) for call in told.tool_calls] == [("function", n) for n, _ in expected]
    assert [json.loads(call["function"]["arguments"]) for call in told.tool_calls] == [given for _, given in expected]


def test_words_beside_a_call_stay_the_answer_s_text() -> None:
    told = with_calls_apart(_request(), _reply(f"I look it up. {_said_as_hermes([('weather', {})])}"))
    assert (told.text, len(told.tool_calls)) == ("I look it up.", 1)


@given(st.text(max_size=40) | st.builds(json.dumps, st.recursive(st.integers() | st.text(max_size=3), st.lists)))
def test_an_answer_that_is_no_call_is_left_as_it_is(text: str) -> None:
    assert with_calls_apart(_request(), _reply(text)) == _reply(text)


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (_request(tools=()), _reply(_said_as_hermes([("weather", {})]))),
        (_request(), _reply("<tool_call>{", "length")),
        (_request(), _reply('{"name": "Jane", "arguments": "none"}')),
        (_request(answer_schema={"type": "object"}), _reply('{"name": "weather", "arguments": {}}')),
    ],
    ids=["no tools were offered", "it was cut off", "JSON of something else", "JSON was asked for"],
)
def test_what_only_looks_like_a_call_is_text(request_: Request, reply: Reply) -> None:
    assert with_calls_apart(request_, reply) == reply


@pytest.mark.parametrize("inner", ["{", "<function=weather></function>", '{"arguments": {}}', "[]", "", "7", "[" * 9999])
def test_a_marked_call_that_cannot_be_read_is_no_answer(inner: str) -> None:
    told = with_calls_apart(_request(), _reply(f"<tool_call>{inner}</tool_call>"))
    assert isinstance(told, Trouble)
    assert (told.code, told.retryable) == ("teacher-tool-call", False)
    assert len(told.reason) < 200
