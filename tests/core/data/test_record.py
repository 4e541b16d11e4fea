"""Rows as they are written: those without longer chats are the same bytes, and have the same ids, as before there were any."""

from __future__ import annotations

from core.config import LabelConfig
from core.data.record import LabeledRow, Message, PromptRow
from core.data.shapes import Draft
from core.data.turns import Turn
from core.files import digest_of
from core.label.ask import first_request


def test_the_id_of_a_row_of_one_turn_is_what_it_was() -> None:
    draft = Draft(shape="record", user="Salut?", system="Sois bref.", context="doc", completion="Salut.", extra={"id": 1})

    # the identity as it was written before drafts had a history
    before = {
        "user": "Salut?",
        "system": "Sois bref.",
        "context": "doc",
        "completion": "Salut.",
        "requires_json": False,
        "tool_name": None,
        "tool_schema": None,
    }
    assert digest_of(draft.shaping()) == digest_of(before)
    assert digest_of(draft.shaping())[:16] == "01a20b998c9f0daa"


def test_a_longer_chat_has_another_id() -> None:
    short, long = Draft(shape="chat", user="a"), Draft(shape="chat", user="a", history=(Turn("user", "b"),))

    assert digest_of(short.shaping()) != digest_of(long.shaping())


def test_what_is_empty_is_not_written() -> None:
    row = PromptRow(row_id="r", split="train", system=None, context=None, user="a")
    labeled = LabeledRow(row_id="r", split="train", messages=(Message(role="user", content="a"),))

    assert set(row.model_dump(mode="json")) == {
        "row_id", "split", "system", "context", "user", "requires_json", "tool_name", "tool_schema", "completion", "extra",
    }  # fmt: skip
    assert labeled.model_dump(mode="json") == {
        "row_id": "r",
        "split": "train",
        "messages": [{"role": "user", "content": "a"}],
        "requires_json": False,
        "tool_schema": None,
    }


def test_a_row_with_history_survives_being_written_and_read() -> None:
    draft = Draft(
        shape="chat", user="a", history=(Turn("user", "b"), Turn("assistant", "c")), tools=({"type": "function"},)
    )

    row = PromptRow.model_validate({"row_id": "r", "split": "train", **draft.shaping()})

    assert row.history == (Message(role="user", content="b"), Message(role="assistant", content="c"))
    assert PromptRow.model_validate_json(row.model_dump_json()) == row


def test_the_key_of_an_answer_that_is_in_a_ledger_stays() -> None:
    row = PromptRow(row_id="r", split="train", system="Be brief.", context=None, user="Why?")

    request = first_request(row, "t", LabelConfig(teacher="qwen3-8b"))

    # sha256 of the request as it was written before messages had tool calls
    assert request.key == digest_of(
        {
            "teacher": "t",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
            "temperature": 0.0,
            "max_tokens": 96,
            "seed": 42,
            "answer_schema": None,
        }
    )
