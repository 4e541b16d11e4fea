"""What of an answer is right."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.compare.answers import Given
from core.compare.questions import Question
from core.compare.scoring import Score, score
from core.data.record import Message

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ASKED = (Message(role="user", content="How many?"),)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": name, "arguments": arguments}}


def question(content: str = "", **more: Any) -> Question:
    calls = more.pop("calls", ())
    answer = Message(role="assistant", content=content, tool_calls=calls)
    return Question(row_id="a", messages=ASKED, answer=answer, **more)


def given_text(text: str, finish: str = "stop", calls: tuple[dict[str, Any], ...] = ()) -> Given:
    return Given(row_id="a", text=text, finish_reason=finish, tool_calls=calls)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"n": 4}', Score(exact_match=True, json_valid=True, schema_valid=True)),
        ('{ "n" :4 }\n', Score(exact_match=True, json_valid=True, schema_valid=True)),
        ('{"n": 5}', Score(exact_match=False, json_valid=True, schema_valid=True)),
        ('{"n": "4"}', Score(exact_match=False, json_valid=True, schema_valid=False)),
        ("four", Score(exact_match=False, json_valid=False, schema_valid=False)),
        ('{"n": NaN}', Score(exact_match=False, json_valid=False, schema_valid=False)),
        ("", Score(exact_match=False, json_valid=False, schema_valid=False)),
        ("[" * 100_000, Score(exact_match=False, json_valid=False, schema_valid=False)),
    ],
)
def test_json_is_judged_by_its_value_and_its_schema(text: str, expected: Score) -> None:
    assert score(question('{"n": 4}', requires_json=True, tool_schema=SCHEMA), given_text(text)) == expected


def test_json_without_a_schema_has_no_schema_to_fit() -> None:
    assert score(question("[1]", requires_json=True), given_text("[2]")) == Score(exact_match=False, json_valid=True)


@given(json_values)
def test_the_hoped_for_json_is_right_however_it_is_written(value: object) -> None:
    asked = question(json.dumps(value), requires_json=True)
    assert score(asked, given_text(json.dumps(value, indent=3, ensure_ascii=False))).exact_match


def test_an_answer_that_was_cut_or_never_came_is_wrong() -> None:
    asked = question('{"n": 4}', requires_json=True, tool_schema=SCHEMA)
    wrong = Score(exact_match=False, json_valid=False, schema_valid=False)
    assert score(asked, given_text('{"n": 4}', "length")) == wrong
    assert score(asked, Given(row_id="a", finish_reason="trouble", trouble="no room")) == wrong
    assert score(question("4"), given_text("4", "length")) == Score(exact_match=False)


@pytest.mark.parametrize(
    ("calls", "name", "arguments"),
    [
        ((call("find", '{"q": 1, "r": 2}'),), True, True),
        ((call("find", '{"r":2,"q":1}'),), True, True),
        ((call("find", '{"q": 2, "r": 2}'),), True, False),
        ((call("find", "no json"),), True, False),
        ((call("lose", '{"q": 1, "r": 2}'),), False, False),
        ((), False, False),
        ((call("find", '{"q": 1, "r": 2}'),) * 2, False, False),
    ],
)
def test_tool_calls_are_judged_by_name_and_by_arguments(calls, name: bool, arguments: bool) -> None:
    asked = question(calls=(call("find", '{"q": 1, "r": 2}'),))
    expected = Score(exact_match=arguments, tool_name=name, tool_arguments=arguments)
    assert score(asked, given_text("", "tool_calls", calls)) == expected


@pytest.mark.parametrize(("text", "right"), [("42", True), (" 42\n", True), ("forty-two", False)])
def test_a_short_answer_is_expected_word_for_word(text: str, right: bool) -> None:
    assert score(question("42"), given_text(text)) == Score(exact_match=right)


def test_a_long_free_text_is_neither_right_nor_wrong() -> None:
    asked = question("It counts the items of an iterable and gives each one beside its number.")
    assert score(asked, given_text("anything")) == Score()
    assert not asked.is_task
