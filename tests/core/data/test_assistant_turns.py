"""Every assistant turn of a chat is learned: in one row where the template allows it, else in a row a turn."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from core.data import tokens, worker
from core.data.record import LabeledRow, Message, TokenisedRow
from core.errors import DataError
from core.events import Event, ignore

CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Lima"}'}}
TOOLS = ({"type": "function", "function": {"name": "weather"}},)
WITH_TOOLS = (
    "{% for t in tools or [] %}<|im_start|>tool {{ t.function.name }}<|im_end|>{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)


def chat(*texts: str, row_id: str = "a", split: str = "train") -> LabeledRow:
    roles = ("user", "assistant") * len(texts)
    messages = tuple(Message(role=role, content=text) for role, text in zip(roles, texts, strict=False))
    return LabeledRow(row_id=row_id, split=split, messages=messages)


def called(row_id: str = "a", thought: str = "") -> LabeledRow:
    messages = (
        Message(role="user", content="Hi?"),
        Message(role="assistant", content="Hi."),
        Message(role="user", content="Cold?"),
        Message(role="assistant", content=thought, tool_calls=(CALL,)),
        Message(role="tool", content="9"),
        Message(role="assistant", content="Yes."),
    )
    return LabeledRow(row_id=row_id, split="train", messages=messages, tools=TOOLS)


@pytest.fixture(scope="module")
def tokenizer(tiny_student) -> Any:
    return AutoTokenizer.from_pretrained(tiny_student)


def of_template(student: Path, template: str, *special: str) -> Any:
    made = AutoTokenizer.from_pretrained(student)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.chat_template = template
    return made


def published(name: str) -> str:
    """Return a chat template that TRL carries."""
    (folder,) = importlib.util.find_spec("trl").submodule_search_locations
    return (Path(folder) / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def rows_of(
    tokenizer: Any, row: LabeledRow, max_length: int = 4096, wanted: str = "all", hear: Any = ignore
) -> list[TokenisedRow]:
    return list(worker.tokenise(tokenizer, [row], max_length, hear, wanted))


def trained(tokenizer: Any, row: TokenisedRow) -> str:
    ids = [token for token, keep in zip(row.input_ids, row.completion_mask, strict=True) if keep]
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def test_all_turns_of_a_train_row_are_learned_and_of_a_held_out_one_the_last(tiny_student, tokenizer, tmp_path):
    texts = ("Hi?", "Hi.", "Cold?", "Yes.")
    rows = [chat(*texts), chat(*texts, row_id="b", split="held_out"), chat("Hi?", "Hi.", row_id="c")]

    every = tokens.tokenise(rows, tiny_student, 256, tmp_path / "all", assistant_turns="all")
    last = tokens.tokenise(rows, tiny_student, 256, tmp_path / "last")

    assert [trained(tokenizer, row) for row in every] == ["Hi.<|im_end|>Yes.<|im_end|>", "Yes.<|im_end|>", "Hi.<|im_end|>"]
    assert [trained(tokenizer, row) for row in last] == ["Yes.<|im_end|>", "Yes.<|im_end|>", "Hi.<|im_end|>"]
    assert [row.input_ids for row in every] == [row.input_ids for row in last]
    assert every[1:] == last[1:]
    assert every[0].answer_start == last[0].answer_start


def test_a_chat_with_one_turn_is_written_with_the_same_bytes_as_before_there_were_several(tokenizer):
    row = chat("What does len return?", "The length.")
    head = tokenizer("<|im_start|>user\nWhat does len return?<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    answer = tokenizer("The length.<|im_end|>", add_special_tokens=False)
    written = {
        "row_id": "a",
        "input_ids": head["input_ids"] + answer["input_ids"],
        "completion_mask": [0] * len(head["input_ids"]) + [1] * len(answer["input_ids"]),
    }
    for wanted in ("all", "last"):
        (made,) = rows_of(tokenizer, row, wanted=wanted)
        assert made.model_dump_json() == json.dumps(written, separators=(",", ":"))


def test_a_tool_call_is_learned_and_its_result_is_not(tiny_student):
    tokenizer = of_template(tiny_student, WITH_TOOLS)
    (row,) = rows_of(tokenizer, called())
    assert trained(tokenizer, row) == "Hi.<|im_end|>weather(Lima)<|im_end|>Yes.<|im_end|>"


def test_a_tool_call_that_the_template_does_not_show_is_not_learned_as_an_empty_answer(tokenizer):
    heard: list[Event] = []
    (row,) = rows_of(tokenizer, called(), hear=heard.append)
    assert trained(tokenizer, row) == "Hi.<|im_end|>Yes.<|im_end|>"
    (note,) = (event for event in heard if event.kind == "note")
    assert "shows nothing of 1 assistant turns that only call tools, first row a#turn2: they are not learned" in note.text


def test_where_earlier_thinking_is_left_out_of_the_chat_there_is_a_row_a_turn_with_what_the_student_is_given(tiny_student):
    tokenizer = of_template(tiny_student, published("qwen3"))
    row, heard = chat("Hi?", "<think>\nA greeting.\n</think>\n\nHi.", "Cold?", "Yes.", "Sure?", "No."), []

    made = rows_of(tokenizer, row, hear=heard.append)

    assert [(one.row_id, one.turn_of) for one in made] == [("a#turn1", "a"), ("a#turn2", "a"), ("a", None)]
    assert [trained(tokenizer, one) for one in made] == [
        "<think>\nA greeting.\n</think>\n\nHi.<|im_end|>",
        "<think>\n\n</think>\n\nYes.<|im_end|>",
        "<think>\n\n</think>\n\nNo.<|im_end|>",
    ]
    for one, asked in zip(made, (1, 3, 5), strict=True):
        shown = [message.for_template() for message in row.messages[:asked]]
        prompt = tokenizer.apply_chat_template(shown, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(one.input_ids[: one.completion_mask.index(1)]) == prompt
    (answer,) = rows_of(tokenizer, row, wanted="last")
    assert made[-1] == answer
    (note,) = (event for event in heard if event.kind == "note")
    assert note.text.startswith("1 of 1 chats with several assistant turns become a row a turn, first row a:")


def test_in_one_question_and_its_tool_steps_no_thinking_is_left_out_so_it_stays_one_row(tiny_student):
    tokenizer = of_template(tiny_student, published("qwen3"))
    row = called(thought="<think>\nI look.\n</think>")
    (made,) = rows_of(tokenizer, row.model_copy(update={"messages": row.messages[2:]}))
    assert trained(tokenizer, made) == (
        '<think>\nI look.\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Lima"}}\n</tool_call><|im_end|>'
        "<think>\n\n</think>\n\nYes.<|im_end|>"
    )


def test_a_turn_that_ends_otherwise_once_others_follow_is_learned_as_it_ends_when_it_is_the_last(tiny_student):
    special = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>")
    tokenizer = of_template(tiny_student, published("gptoss"), *special)
    made = rows_of(tokenizer, chat("Hi?", "Hi.", "Cold?", "Yes."))
    answers = [trained(tokenizer, one) for one in made]
    assert answers == [f"<|channel|>final<|message|>{text}<|return|>" for text in ("Hi.", "Yes.")]


@pytest.mark.parametrize(
    ("name", "special"),
    [
        ("llama3", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
        ("cohere", ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>")),
    ],
)
def test_the_mask_is_that_of_trls_training_template(tiny_student, name, special):
    row = chat("Hi?", "Hi.", "Is it\ncold?", "Yes,  9 °C.", "Sure?", "No.")
    (made,) = rows_of(of_template(tiny_student, published(name), *special), row)
    marked = of_template(tiny_student, published(f"{name}_training"), *special).apply_chat_template(
        [message.for_template() for message in row.messages], return_dict=True, return_assistant_tokens_mask=True
    )
    assert list(made.input_ids) == marked["input_ids"]
    assert list(made.completion_mask) == marked["assistant_masks"]
    assert sum(pair == (0, 1) for pair in zip(made.completion_mask, made.completion_mask[1:], strict=False)) == 3


def test_a_chat_that_is_cut_in_a_turn_ends_there_and_the_turns_behind_are_told(tokenizer):
    row = chat("Hi?", "Hi.", "Cold?", "It is very cold here.", "Sure?", "No.")
    (whole,) = rows_of(tokenizer, row)
    starts = [place for place in range(1, len(whole.input_ids)) if whole.completion_mask[place - 1 : place + 1] == (0, 1)]
    heard: list[Event] = []
    (cut,) = rows_of(tokenizer, row, starts[1] + 2, hear=heard.append)
    assert cut.input_ids == whole.input_ids[: starts[1] + 2]
    assert cut.completion_mask == whole.completion_mask[: starts[1] + 2]
    assert cut.answer_start == whole.answer_start > len(cut.input_ids)
    (note,) = (event for event in heard if event.kind == "note")
    assert note.level == "warning"
    assert "1 of 3 assistant turns begin behind train.max_length" in note.text
    assert note.text.endswith("not learned, first row a")

    (question,) = rows_of(tokenizer, row, starts[1] - 1)
    assert trained(tokenizer, question) == "Hi.<|im_end|>"
    assert question.completion_mask[-1] == 1

    with pytest.raises(DataError, match=rf"row a: the prompt has {starts[0]} tokens >= train.max_length {starts[0]}"):
        rows_of(tokenizer, row, starts[0])


def test_of_a_row_a_turn_those_that_truncation_leaves_are_kept(tiny_student):
    tokenizer = of_template(tiny_student, published("qwen3"))
    row = chat("Hi?", "Hi.", "Is it cold where you are, or is it warm?", "Yes.")
    first, second = rows_of(tokenizer, row)
    (kept,) = rows_of(tokenizer, row, len(first.input_ids))
    assert kept == first
    assert second.completion_mask.index(1) > len(first.input_ids)


def test_a_turn_that_cannot_be_taught_is_named_with_how_to_leave_it_out(tiny_student, tmp_path):
    folder = shutil.copytree(tiny_student, tmp_path / "student")
    template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(DataError, match="row a#turn1: the chat template's prompt is not a prefix") as caught:
        tokens.tokenise([chat("Hi?", "Hi.", "Cold?", "Yes.")], folder, 256, tmp_path / "work", assistant_turns="all")
    assert "train.assistant_turns=last" in caught.value.remedy


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40).filter(str.strip)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
@hypothesis_settings(max_examples=50)
def test_what_is_learned_is_what_the_assistant_said_and_its_ends_of_turn(tokenizer, turns):
    texts = [text for turn in turns for text in turn]
    (row,) = rows_of(tokenizer, chat(*texts))
    assert trained(tokenizer, row) == "".join(f"{answer}<|im_end|>" for _, answer in turns)
    said = [part for question, answer in turns for part in (f"user\n{question}", f"assistant\n{answer}")]
    whole = tokenizer.decode(row.input_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert f"{whole}\n" == "".join(f"<|im_start|>{part}<|im_end|>\n" for part in said)
