"""What is asked and what counts as an answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import LabelConfig
from core.data.record import Message, PromptRow
from core.label.ask import (
    Problem,
    completion_of,
    first_request,
    labeled,
    messages_for,
    schema_problem,
    second_request,
    set_aside,
)
from core.label.choosing import similarity
from core.label.request import Reply

CONFIG = LabelConfig(teacher="qwen3-8b", max_tokens=80)
CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Québec"}'}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
EARLIER = (Message(role="user", content="Hi?"), Message(role="assistant", content="Hi."))
STEPS = (Message(role="assistant", content="", tool_calls=(CALL,)), Message(role="tool", content="-20"))
SCHEMA = {"type": "object", "properties": {"guests": {"type": "integer"}}, "required": ["guests"]}


def _row(**more) -> PromptRow:
    plain = {"row_id": "r1", "split": "train", "system": "Be brief.", "context": "Cats purr.", "user": "Do cats purr?"}
    return PromptRow(**{**plain, **more})


def _reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text=text, finish_reason=finish_reason, prompt_tokens=1, completion_tokens=9, latency_ms=1.0)


def test_the_teacher_sees_the_hint_and_the_context_before_the_question() -> None:
    system, user = messages_for(_row())
    assert (system.role, system.content) == ("system", "Be brief.")
    assert (user.role, user.content) == ("user", "Documentation:\nCats purr.\n\nDo cats purr?")


def test_a_plain_prompt_is_asked_as_it_is() -> None:
    (user,) = messages_for(_row(system=None, context=None))
    assert user.content == "Do cats purr?"


def test_with_context_distillation_the_student_sees_the_question_only() -> None:
    row = labeled(_row(), "Yes.", context_distillation=True)
    assert [(m.role, m.content) for m in row.messages] == [("user", "Do cats purr?"), ("assistant", "Yes.")]


def test_without_it_the_student_sees_what_the_teacher_saw() -> None:
    row = labeled(_row(), "Yes.", context_distillation=False)
    assert [m.role for m in row.messages] == ["system", "user", "assistant"]
    assert row.messages[:2] == messages_for(_row())


def test_a_row_that_needs_json_carries_its_schema_to_the_teacher() -> None:
    row = _row(requires_json=True, tool_name="ReserveTable", tool_schema=SCHEMA)
    request = first_request(row, "t", CONFIG)
    assert request.answer_schema == SCHEMA
    assert "ReserveTable" in request.messages[0].content
    assert first_request(_row(requires_json=True), "t", CONFIG).answer_schema == {"type": "object"}


@pytest.mark.parametrize(
    ("text", "finish_reason", "code"),
    [
        ("Half an", "length", "teacher-length"),
        ("", "stop", "teacher-empty"),
        ("  \n", "stop", "teacher-empty"),
        ("<think>long thoughts</think>\n", "stop", "teacher-empty"),
        ("No.", "content_filter", "teacher-filter"),
    ],
)
def test_a_reply_that_is_no_answer_is_named(text: str, finish_reason: str, code: str) -> None:
    problem = completion_of(_reply(text, finish_reason), None)
    assert isinstance(problem, Problem)
    assert problem.code == code
    assert set_aside(_row(), problem).remedy


def test_thoughts_are_left_out_of_the_completion() -> None:
    assert completion_of(_reply("<think>Hm.</think>\n\nYes."), None) == "Yes."


@pytest.mark.parametrize(
    "text", ['{"guests": "four"}', "{}", '{"guests": 4', "Sure! Four guests.", "[" * 100_000, '```json\n{"guests": 4}\n```']
)
def test_json_that_does_not_fit_its_schema_is_no_answer(text: str) -> None:
    problem = completion_of(_reply(text), SCHEMA)
    assert isinstance(problem, Problem)
    assert problem.code == "teacher-json"
    assert len(problem.reason) <= 200


@pytest.mark.parametrize("schema", [SCHEMA, {"type": "object"}, {"$ref": "#/$defs/any", "$defs": {"any": {}}}])
@pytest.mark.parametrize(
    "text",
    [
        '{"guests": "\\ud83d"}',
        '{"\\udc00": 1}',
        '{"guests": 1e400}',
        '{"guests": ' + "9" * 400 + "}",
        '{"guests": ' + "9" * 5000 + "}",
        '{"guests": ' + "[" * 300 + "]" * 300 + "}",
        '{"guests": "\\u0000"}',
        '{"guests": 4, "guests": 5}',
    ],
    ids=lambda text: text[:24],
)
def test_json_of_any_kind_is_an_answer_or_told_and_answers_can_be_compared(text: str, schema: dict) -> None:
    found = completion_of(_reply(text), schema)
    if isinstance(found, Problem):
        assert found.code == "teacher-json"
        found.reason.encode()
    else:
        assert similarity(found, found, as_json=True) == 1.0


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"not": {"$ref": "#"}},
        {"$dynamicRef": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"$ref": "#/$defs/missing"},
        {"properties": {"a": {"$ref": "#"}}},
        {"$id": "http://127.0.0.1:9/a", "$ref": "b"},
        {"pattern": "(a+)+$"},
        {"pattern": "a{100000}{100000}"},
        {"$schema": "http://127.0.0.1:9/mine"},
        {"$schema": "http://json-schema.org/draft-04/schema#", "exclusiveMinimum": True, "minimum": 3},
        {"type": "object", "required": "guests"},
        {"enum": []},
        {"maximum": 10**400},
    ],
    ids=str,
)
def test_no_schema_whatsoever_ends_more_than_its_own_row(schema: dict) -> None:
    problem = schema_problem(_row(requires_json=True, tool_schema=schema))
    assert problem is None or problem.code == "bad-schema"
    found = completion_of(_reply('{"a": {"a": 4}}'), schema)
    assert isinstance(found, str) or found.code == "teacher-json"


@given(st.integers())
def test_json_that_fits_is_kept_as_it_was_written(guests: int) -> None:
    text = json.dumps({"guests": guests})
    assert completion_of(_reply(f"\n{text}\n"), SCHEMA) == text


def test_a_schema_that_points_outside_is_not_fetched() -> None:
    problem = completion_of(_reply("{}"), {"$ref": "http://127.0.0.1:9/schema.json"})
    assert isinstance(problem, Problem)
    assert "it lies outside of the schema" in problem.reason


def test_a_schema_that_is_none_is_found_before_anything_is_asked() -> None:
    problem = schema_problem(_row(requires_json=True, tool_schema={"type": "objekt"}))
    assert problem is not None
    assert problem.code == "bad-schema"
    assert set_aside(_row(), problem).field == "tool_schema"
    assert schema_problem(_row()) is None


def test_a_cut_answer_is_asked_for_shorter_and_a_wrong_one_is_shown_its_fault() -> None:
    first = first_request(_row(), "t", CONFIG)
    shorter = second_request(first, _reply("Ha", "length"), Problem(code="teacher-length", reason=""))
    assert shorter.messages[-1].content.endswith("Use at most 20 words.")
    mended = second_request(first, _reply("{"), Problem(code="teacher-json", reason="not JSON"))
    assert [m.role for m in mended.messages] == ["system", "user", "assistant", "user"]
    assert "not JSON" in mended.messages[-1].content
    assert len({first.key, shorter.key, mended.key}) == 3
    assert second_request(first, _reply(""), Problem(code="teacher-empty", reason="")) is None


def test_earlier_turns_stand_before_the_question_and_tool_steps_behind_it() -> None:
    row = _row(history=EARLIER, steps=STEPS, tools=(TOOL,))

    request = first_request(row, "t", CONFIG)

    assert [m.role for m in request.messages] == ["system", "user", "assistant", "user", "assistant", "tool"]
    assert request.messages[3].content == "Documentation:\nCats purr.\n\nDo cats purr?"
    assert request.tools == (TOOL,)
    student = labeled(row, "Yes.", context_distillation=True)
    assert [m.content for m in student.messages] == ["Hi?", "Hi.", "Do cats purr?", "", "-20", "Yes."]
    assert student.tools == (TOOL,)
    assert first_request(_row(history=EARLIER), "t", CONFIG).key != first_request(_row(), "t", CONFIG).key
    shorter = second_request(request, _reply("Ha", "length"), Problem(code="teacher-length", reason=""))
    assert [m.role for m in shorter.messages[-2:]] == ["tool", "user"]


def test_a_reply_that_calls_a_tool_is_an_answer_without_text() -> None:
    reply = _reply("").model_copy(update={"tool_calls": (CALL,)})

    assert completion_of(reply, None) == ""
    assert completion_of(reply, SCHEMA) == ""
    assert labeled(_row(), "", False, (CALL,)).messages[-1].tool_calls == (CALL,)
