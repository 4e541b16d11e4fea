"""Record shapes: what each is read into, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from core.contract import Severity
from core.data.flaws import REMEDIES, Flaw
from core.data.limits import RuleLimits
from core.data.rules import judge
from core.data.shapes import Draft, draft_of
from core.data.subject import subject_of

SYSTEM = {"role": "system", "content": "Sois bref."}
USER = {"role": "user", "content": "Salut?"}
ANSWER = {"role": "assistant", "content": "Salut."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def code_of(record: dict[str, Any], shape: Any = "auto", max_chars: int = 100) -> str | None:
    draft = draft_of(record, shape)
    limits = RuleLimits(max_prompt_chars=max_chars)
    flaws = (draft,) if isinstance(draft, Flaw) else judge(subject_of(draft), limits)
    assert all(flaw.code in REMEDIES for flaw in flaws)
    return next((flaw.code for flaw in flaws if flaw.severity is Severity.ERROR), None)


def test_our_record_keeps_every_field() -> None:
    record = {
        "system_hint": "Sois bref.",
        "user": "Météo?",
        "requires_json": True,
        "tool_name": "GetWeather",
        "tool_schema": SCHEMA,
        "goal": "prévoir",
        "tags": ["météo"],
        "registre": "familier",
    }

    assert draft_of(record, "auto") == Draft(
        shape="record",
        user="Météo?",
        system="Sois bref.",
        requires_json=True,
        tool_name="GetWeather",
        tool_schema=SCHEMA,
        extra={"goal": "prévoir", "tags": ["météo"], "registre": "familier"},
    )


def test_a_chat_is_read_into_question_and_answer() -> None:
    draft = draft_of({"messages": [SYSTEM, USER, ANSWER], "id": 7}, "auto")

    assert draft == Draft(shape="chat", user="Salut?", system="Sois bref.", completion="Salut.", extra={"id": 7})


def test_unknown_fields_of_a_message_are_kept() -> None:
    messages = [{**USER, "name": "Ginette"}]

    draft = draft_of({"messages": messages}, "auto")

    assert isinstance(draft, Draft)
    assert draft.extra == {"messages": messages}


def test_a_plain_prompt_may_bring_context_and_answer() -> None:
    draft = draft_of({"prompt": "Salut?", "context": "doc", "completion": "Salut.", "source": 1}, "auto")

    assert draft == Draft(shape="prompt", user="Salut?", context="doc", completion="Salut.", extra={"source": 1})


def test_prompt_and_completion_may_be_turns() -> None:
    prompt = [SYSTEM, USER, ANSWER, {"role": "user", "content": "Et demain?"}]
    answer = {"role": "assistant", "content": "Demain aussi."}

    for completion in ([answer], answer, answer["content"]):
        draft = draft_of({"prompt": prompt, "completion": completion, "id": 3}, "auto")

        assert isinstance(draft, Draft)
        assert (draft.shape, draft.system, draft.user, draft.completion) == (
            "prompt",
            "Sois bref.",
            "Et demain?",
            "Demain aussi.",
        )
        assert [turn.content for turn in draft.history] == ["Salut?", "Salut."]
        assert draft.extra == {"id": 3}
    unanswered = draft_of({"prompt": prompt}, "auto")
    assert isinstance(unanswered, Draft)
    assert unanswered.completion is None


def test_a_mistake_in_the_turns_of_prompt_and_completion_names_its_turn() -> None:
    flaw = draft_of({"prompt": [USER], "completion": [{"role": "narrator", "content": "Puis..."}]}, "auto")

    assert isinstance(flaw, Flaw)
    assert (flaw.code, flaw.field) == ("role-unknown", "prompt + completion[1].role")


def test_a_file_that_wraps_its_records_in_a_field_is_told_so() -> None:
    flaw = draft_of({"version": 1, "data": [{"instruction": "a", "output": "b"}] * 3}, "auto")

    assert isinstance(flaw, Flaw)
    assert flaw.reason.endswith("fields: data, version; 'data' holds a list of 3 records: save it as a file of its own")
    other = draft_of({"data": [{"x": 1}]}, "auto")
    assert isinstance(other, Flaw)
    assert other.reason.endswith("fields: data")


def test_the_shape_can_be_named() -> None:
    both = {"prompt": "p", "user": "u"}

    assert isinstance(draft_of(both, "prompt"), Draft)
    assert code_of({"prompt": "p"}, "record") == "empty-user"
    assert code_of({"user": "u"}, "chat") == "field-wrong-type"


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({}, "shape-unknown"),
        ({"question": "x"}, "shape-unknown"),
        ({"instruction": "x"}, None),
        ({"instruction": "x", "output": ""}, "empty-completion"),
        ({"instruction": "x", "history": [["a"]]}, "field-wrong-type"),
        ({"instruction": "x", "history": [["a", " "]]}, "empty-content"),
        ({"instruction": "x", "history": "a"}, "field-wrong-type"),
        ({"user": "x", "tools": "[{]"}, "field-wrong-type"),
        ({"user": "x", "tools": [{"parameters": {}}]}, "field-wrong-type"),
        ({"user": "x", "tools": ["look_up"]}, "field-wrong-type"),
        ({"user": ""}, "empty-user"),
        ({"user": " \u00a0\n"}, "empty-user"),
        ({"user": None}, "empty-user"),
        ({"user": 3}, "field-wrong-type"),
        ({"user": "a", "system_hint": ["x"]}, "field-wrong-type"),
        ({"user": "a", "requires_json": "yes"}, "field-wrong-type"),
        ({"user": "a", "tool_schema": "{}"}, "field-wrong-type"),
        ({"user": "a", "tool_name": 1}, "field-wrong-type"),
        ({"user": "a", "completion": " "}, "empty-completion"),
        ({"user": "a", "requires_json": True}, "schema-missing"),
        ({"user": "a", "requires_json": True, "tool_schema": {}}, "schema-missing"),
        ({"user": "a", "requires_json": True, "tool_schema": {"type": "objet"}}, "schema-invalid"),
        ({"user": "a", "requires_json": True, "tool_schema": {"$schema": 3}}, "schema-invalid"),
        ({"user": "a", "requires_json": True, "tool_schema": {"pattern": "["}}, "schema-invalid"),
        ({"user": "a", "requires_json": True, "tool_schema": SCHEMA}, None),
        ({"user": "a", "requires_json": False, "tool_schema": {"type": "objet"}}, None),
        ({"user": "a" * 60, "context": "b" * 41}, "too-long"),
        ({"user": "a" * 60, "context": "b" * 40}, None),
        ({"messages": []}, "field-wrong-type"),
        ({"messages": ["Salut"]}, "field-wrong-type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role-unknown"),
        ({"messages": [{"content": "x"}]}, "role-unknown"),
        ({"messages": [{"role": "user", "content": None}]}, "field-wrong-type"),
        ({"messages": [USER, SYSTEM]}, "system-not-first"),
        ({"messages": [SYSTEM, SYSTEM, USER]}, "system-not-first"),
        ({"messages": [SYSTEM]}, "chat-no-question"),
        ({"messages": [ANSWER, USER]}, "first-turn-not-user"),
        ({"messages": [USER, USER]}, "role-repeated"),
        ({"messages": [USER, ANSWER, USER, ANSWER]}, None),
        ({"messages": [SYSTEM, USER]}, None),
    ],
)
def test_a_record_is_kept_or_refused_with_its_code(record: dict[str, Any], code: str | None) -> None:
    assert code_of(record) == code
