"""Chats of every dialect: what is carried, what is refused and at which place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.flaws import REMEDIES, Flaw
from core.data.record import Message
from core.data.shapes import Draft, draft_of
from core.data.turns import Turn, read_calls, read_tools

SYSTEM = {"role": "system", "content": "Sois bref."}
USER = {"role": "user", "content": "Quel temps?"}
ANSWER = {"role": "assistant", "content": "Frette."}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Québec"}'}}
ASKS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "-20", "tool_call_id": "c1", "name": "weather"}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def draft(record: dict[str, Any]) -> Draft:
    found = draft_of(record, "auto")
    assert isinstance(found, Draft), found
    return found


def flaw(record: dict[str, Any]) -> Flaw:
    found = draft_of(record, "auto")
    assert isinstance(found, Flaw), found
    assert found.code in REMEDIES
    return found


def test_the_turns_before_the_last_question_are_its_history() -> None:
    found = draft({"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "Demain?"}, ANSWER]})

    assert (found.system, found.user, found.completion) == ("Sois bref.", "Demain?", "Frette.")
    assert found.history == (Turn("user", "Quel temps?"), Turn("assistant", "Frette."))
    assert (found.steps, found.extra) == ((), {})


def test_tool_calls_and_results_stand_between_question_and_answer() -> None:
    found = draft({"messages": [USER, ASKS, RESULT, RESULT, ANSWER], "tools": [TOOL]})

    assert found.tools == (TOOL,)
    assert found.steps == (Turn("assistant", "", (CALL,)), *(Turn("tool", "-20", (), "c1", "weather"),) * 2)
    assert (found.user, found.completion, found.answer_tool_calls) == ("Quel temps?", "Frette.", ())


def test_an_answer_may_be_a_tool_call() -> None:
    found = draft({"messages": [USER, ASKS]})

    assert (found.completion, found.answer_tool_calls) == ("", (CALL,))


@pytest.mark.parametrize("last", [USER, RESULT])
def test_a_chat_that_ends_before_the_answer_is_a_prompt(last: dict[str, Any]) -> None:
    messages = [USER, ASKS, RESULT] if last is RESULT else [USER]

    assert draft({"messages": messages}).completion is None


def test_sharegpt_is_read_like_the_chat_it_is() -> None:
    spoken = [
        {"from": "system", "value": "Sois bref."},
        {"from": "human", "value": "Quel temps?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Québec"}}'},
        {"from": "observation", "value": "-20"},
        {"from": "gpt", "value": "Frette."},
    ]
    bare = {"type": "function", "function": CALL["function"]}
    messages = [SYSTEM, USER, {**ASKS, "tool_calls": [bare]}, {"role": "tool", "content": "-20"}, ANSWER]

    told, chat = (
        draft({"conversations": spoken, "tools": json.dumps([TOOL])}),
        draft({"messages": messages, "tools": [TOOL]}),
    )

    assert told.shaping() == chat.shaping()
    assert told.shape == "sharegpt"


def test_sharegpt_may_keep_its_system_message_beside() -> None:
    spoken = [{"from": "human", "value": "Salut?"}]

    assert draft({"conversations": spoken, "system": "Sois bref.", "id": 1}).system == "Sois bref."
    assert draft({"conversations": spoken, "system": "Sois bref.", "id": 1}).extra == {"id": 1}
    assert draft({"conversations": [USER, ANSWER]}).completion == "Frette."


def test_alpaca_joins_instruction_and_input_and_reads_its_history() -> None:
    record = {"instruction": "Corrige.", "input": "Y fait frette", "output": "Il fait froid.", "id": 1}

    found = draft({**record, "history": [["Salut?", "Salut."]], "system": "Sois bref."})

    assert (found.shape, found.user, found.completion) == ("alpaca", "Corrige.\n\nY fait frette", "Il fait froid.")
    assert found.history == (Turn("user", "Salut?"), Turn("assistant", "Salut."))
    assert (found.system, found.extra) == ("Sois bref.", {"id": 1})
    assert draft({"instruction": "Corrige.", "input": ""}).user == "Corrige."


def test_the_old_function_call_of_openai_is_a_tool_call() -> None:
    old = {"role": "assistant", "content": None, "function_call": CALL["function"]}

    found = draft({"messages": [USER, old, {"role": "function", "name": "weather", "content": "-20"}, ANSWER]})

    assert [turn.role for turn in found.steps] == ["assistant", "tool"]
    assert found.steps[0].tool_calls[0]["function"] == CALL["function"]


def test_parts_of_text_are_one_text_and_a_picture_is_refused() -> None:
    parts = [{"type": "text", "text": "Quel "}, {"type": "text", "text": "temps?"}]

    assert draft({"messages": [{"role": "user", "content": parts}]}).user == "Quel temps?"
    picture = {"role": "user", "content": [*parts, {"type": "image_url", "image_url": {"url": "x"}}]}
    assert flaw({"messages": [picture]}).code == "field-wrong-type"


def test_what_no_field_carries_is_kept_beside() -> None:
    messages = [{**USER, "weight": 0}, ANSWER]

    assert draft({"messages": messages}).extra == {"messages": messages}
    assert draft({"messages": [{**USER, "weight": None}, ANSWER]}).extra == {}


@pytest.mark.parametrize(
    ("messages", "code", "field"),
    [
        ([USER, ANSWER, SYSTEM], "system-not-first", "messages[2].role"),
        ([USER, ANSWER, ANSWER], "role-repeated", "messages[2].role"),
        ([SYSTEM, USER, USER], "role-repeated", "messages[2].role"),
        ([SYSTEM, ANSWER, USER], "first-turn-not-user", "messages[1].role"),
        ([SYSTEM], "chat-no-question", "messages"),
        ([ANSWER], "chat-no-question", "messages"),
        ([USER, RESULT], "tool-without-call", "messages[1].role"),
        ([USER, ANSWER, RESULT], "tool-without-call", "messages[2].role"),
        ([USER, {"role": "assistant", "content": " \n"}], "empty-content", "messages[1].content"),
        ([{"role": "user", "content": ""}], "empty-content", "messages[0].content"),
        ([USER, ASKS, {**RESULT, "content": ""}], "empty-content", "messages[2].content"),
        ([USER, {"role": "assistant", "content": None}], "field-wrong-type", "messages[1].content"),
        ([USER, {"role": "assistant", "content": 7, "tool_calls": [CALL]}], "field-wrong-type", "messages[1].content"),
        ([USER, {**ASKS, "tool_calls": [{"function": {}}]}], "tool-call-broken", "messages[1].tool_calls"),
        ([USER, {**ASKS, "tool_calls": "x"}], "tool-call-broken", "messages[1].tool_calls"),
        ([{"role": "pirate", "content": "x"}], "role-unknown", "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "role-unknown", "messages[0].role"),
        ([{"from": "narrator", "value": "x"}], "role-unknown", "messages[0].from"),
        ([{"from": "human", "value": 3}], "field-wrong-type", "messages[0].value"),
        (
            [{"from": "human", "value": "a"}, {"from": "function_call", "value": "{"}],
            "tool-call-broken",
            "messages[1].value",
        ),
    ],
)
def test_a_turn_that_may_not_stand_there_is_named_by_its_place(messages: list[Any], code: str, field: str) -> None:
    found = flaw({"messages": messages})

    assert (found.code, found.field) == (code, field)


def test_a_table_of_several_shapes_goes_by_the_column_that_is_filled() -> None:
    assert draft({"messages": None, "prompt": "Salut?"}).shape == "prompt"
    assert draft({"messages": None, "user": ""}).shape == "record"
    assert draft({"user": "a", "note": None}).extra == {}


def test_a_template_gets_the_arguments_as_an_object() -> None:
    message = Message(role="assistant", content="", tool_calls=(CALL,))
    odd = {"type": "function", "function": {"name": "weather", "arguments": "not JSON"}}

    assert message.for_template()["tool_calls"][0]["function"]["arguments"] == {"city": "Québec"}
    assert Message(role="assistant", content="", tool_calls=(odd,)).for_template()["tool_calls"] == [odd]
    assert Message(role="user", content="a").for_template() == {"role": "user", "content": "a"}


def test_bare_tools_and_calls_are_read_into_openais_form() -> None:
    assert read_tools([TOOL["function"]]) == (TOOL,)
    assert read_tools("[]") == ()
    assert read_calls({"name": "weather"}, "x") == (
        {"type": "function", "function": {"name": "weather", "arguments": "{}"}},
    )


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["system", "user", "assistant", "tool", "function"]) | ANY,
        "from": st.sampled_from(["human", "gpt", "system", "function_call", "observation"]) | ANY,
        "content": ANY,
        "value": ANY,
        "tool_calls": st.just([CALL]) | ANY,
        "function_call": ANY,
        "name": ANY,
    },
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(MESSAGES, max_size=4) | ANY
            for name in (
                "messages",
                "conversations",
                "user",
                "instruction",
                "input",
                "history",
                "prompt",
                "tools",
                "system",
            )
        },
    )
)
def test_any_record_is_a_draft_or_a_flaw_with_a_remedy(record: dict[str, Any]) -> None:
    found = draft_of(record, "auto")

    if isinstance(found, Flaw):
        assert found.at("file:1").remedy
    else:
        assert json.dumps(found.shaping())
