"""Tokenising by the student's chat template, by the real worker on the tiny student and on the default model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from core.data.record import LabeledRow, Message
from core.data.tokens import tokenise
from core.errors import DataError
from core.events import Event

ANSWER = "It returns the length of the list."


def row(number: int, answer: str = ANSWER, question: str = "What does len return?") -> LabeledRow:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return LabeledRow(row_id=f"row-{number}", split="train", messages=messages)


def text_of(folder: Path, ids: list[int]) -> str:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids, skip_special_tokens=False)


def trained(folder: Path, token_row) -> str:
    kept = [i for i, keep in zip(token_row.input_ids, token_row.completion_mask, strict=True) if keep]
    return text_of(folder, kept)


def test_the_mask_covers_the_answer_and_its_end_of_turn_and_nothing_else(tiny_student, tmp_path):
    seen: list[Event] = []
    rows = [row(0), row(1, answer="Zero.\nOr one.")]
    first, second = tokenise(rows, tiny_student, 256, tmp_path, seen.append)
    assert trained(tiny_student, first) == ANSWER + "<|im_end|>"
    assert trained(tiny_student, second) == "Zero.\nOr one.<|im_end|>"
    assert (
        text_of(tiny_student, list(first.input_ids))
        == f"<|im_start|>user\nWhat does len return?<|im_end|>\n<|im_start|>assistant\n{ANSWER}<|im_end|>"
    )
    assert [one.row_id for one in (first, second)] == ["row-0", "row-1"]
    assert any(event.kind == "progress" and event.done == 2 for event in seen)


def test_a_special_token_without_a_role_ends_a_turn_as_in_phi_3_and_gemma_3(tiny_student, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(tiny_student, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    roles = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(config | roles | {"extra_special_tokens": []}))
    (only,) = tokenise([row(0)], folder, 256, tmp_path / "work")
    assert trained(folder, only) == ANSWER + "<|im_end|>"


def test_a_long_row_is_cut_and_a_row_without_any_answer_left_is_named(tiny_student, tmp_path):
    (whole,) = tokenise([row(0)], tiny_student, 256, tmp_path / "a")
    prompt = whole.completion_mask.index(1)
    (cut,) = tokenise([row(0)], tiny_student, prompt + 3, tmp_path / "b")
    assert cut.input_ids == whole.input_ids[: prompt + 3]
    assert sum(cut.completion_mask) == 3
    with pytest.raises(DataError, match=rf"row row-0: the prompt has {prompt} tokens >= train.max_length {prompt}"):
        tokenise([row(0)], tiny_student, prompt, tmp_path / "c")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "no special token"),
        ("{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}", "not a prefix"),
        ("{{ raise_exception('roles must alternate') }}", "chat template refuses it: roles must alternate"),
        (None, "chat template refuses it: .*chat_template is not set"),
    ],
)
def test_a_template_that_cannot_teach_is_refused(tiny_student, tmp_path, template, said):
    folder = shutil.copytree(tiny_student, tmp_path / "student")
    (folder / "chat_template.jinja").unlink()
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(DataError, match=said) as caught:
        tokenise([row(7)], folder, 256, tmp_path / "work")
    assert "row-7" in caught.value.problem


def test_history_tools_and_tool_calls_reach_the_template_and_only_the_answer_is_learned(tiny_student, tmp_path):
    folder = shutil.copytree(tiny_student, tmp_path / "student")
    template = (
        "{% for t in tools or [] %}<|im_start|>tool {{ t.function.name }}<|im_end|>{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}:{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name }}({{ c.function.arguments.city }}){% endfor %}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Lima"}'}}
    messages = (
        Message(role="user", content="Hi?"),
        Message(role="assistant", content="Hi."),
        Message(role="user", content="Cold?"),
        Message(role="assistant", content="", tool_calls=(call,)),
        Message(role="tool", content="9"),
        Message(role="assistant", content="Yes."),
    )
    tools = ({"type": "function", "function": {"name": "weather"}},)
    asked = LabeledRow(row_id="a", split="train", messages=messages, tools=tools)
    calls = LabeledRow(row_id="b", split="train", messages=messages[:4], tools=tools)

    whole, called = tokenise([asked, calls], folder, 256, tmp_path / "work")

    assert trained(folder, whole) == "Yes.<|im_end|>"
    assert trained(folder, called) == "weather(Lima)<|im_end|>"
    assert text_of(folder, list(whole.input_ids)).startswith(
        "<|im_start|>tool weather<|im_end|><|im_start|>user:Hi?<|im_end|><|im_start|>assistant:Hi.<|im_end|>"
    )


@pytest.mark.model
def test_the_default_models_tokens_are_those_of_llama_cpp(smollm_folder, default_gguf, toolchain, tmp_path):
    from core.toolchain import use_libraries

    use_libraries(toolchain)
    import llama_cpp

    (made,) = tokenise([row(0, answer="In 2024  it was 1,000.50 café ½")], smollm_folder, 256, tmp_path)
    reference = llama_cpp.Llama(str(default_gguf), vocab_only=True, verbose=False)
    text = text_of(smollm_folder, list(made.input_ids))
    assert "You are a helpful AI assistant named SmolLM" in text
    assert list(made.input_ids) == reference.tokenize(text.encode(), add_bos=False, special=True)
    assert trained(smollm_folder, made) == "In 2024  it was 1,000.50 café ½<|im_end|>"
    config = json.loads((smollm_folder / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in config
