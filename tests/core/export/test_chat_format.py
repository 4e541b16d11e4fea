"""A chat template taken apart makes the same text again, or is not taken apart; Ollama's file says the same."""

from __future__ import annotations

import re
from collections.abc import Callable

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.export.chat_format import ChatFormat, chat_format
from core.export.modelfile import modelfile

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{{ ('<|begin_of_text|>' if loop.first else '') + '<|start_header_id|>' + message['role'] "
    "+ '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
COUNTS = "{% for message in messages %}{{ loop.index ~ ': ' ~ message['content'] ~ '\n' }}{% endfor %}"
DROPS = "{{ messages[-1]['content'] }}{% if add_generation_prompt %}!{% endif %}"


def renderer(template: str) -> Callable[..., str]:
    def refuse(why: str) -> None:
        raise ValueError(why)

    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    compiled = environment.from_string(template)

    def render(messages, *, answering: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=answering, eos_token="</s>", raise_exception=refuse)

    return render


def as_ollama(template: str, messages: list[dict[str, str]]) -> str:
    """Read the few words of Ollama's language that the Modelfile uses."""
    system = next((message["content"] for message in messages if message["role"] == "system"), "")
    head = re.match(r"\{\{ if \.System \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}", template, re.DOTALL)
    text = (head[1].replace("{{ .System }}", system) if system else head[2]) if head else template.partition("{{ range")[0]
    turns = re.search(r"\{\{ range \.Messages \}\}(.*)\{\{ end \}\}\{\{ end \}\}(.*)$", template, re.DOTALL)
    user, assistant = turns[1].removeprefix('{{ if eq .Role "user" }}').split('{{ else if eq .Role "assistant" }}')
    places = {"user": user, "assistant": assistant, "system": ""}
    return text + "".join(places[one["role"]].replace("{{ .Content }}", one["content"]) for one in messages) + turns[2]


@pytest.mark.parametrize("template", [SMOLLM2, LLAMA3, GEMMA, ZEPHYR])
def test_the_pieces_make_what_the_template_makes(template: str) -> None:
    render = renderer(template)
    found = chat_format(render)
    chat = [{"role": role, "content": f"{role} {n}"} for n, role in enumerate(["user", "assistant"] * 3 + ["user"])]
    assert found.rendered(chat) == render(chat, answering=True)
    if found.system:
        chat = [{"role": "system", "content": "Be kind."}, *chat]
        assert found.rendered(chat) == render(chat, answering=True)


def test_what_ends_a_turn_and_whether_there_is_a_system_role_are_seen() -> None:
    ends = {name: chat_format(renderer(name)).end_of_turn for name in (SMOLLM2, LLAMA3, GEMMA, ZEPHYR)}
    assert list(ends.values()) == ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "</s>"]
    assert chat_format(renderer(GEMMA)).system is None
    assert "named SmolLM" in chat_format(renderer(SMOLLM2)).opening
    assert chat_format(renderer(ZEPHYR)).opening == ""
    smollm2 = chat_format(renderer(SMOLLM2))
    assert smollm2.user.before == "<|im_start|>user\n"
    assert smollm2.assistant.after == "<|im_end|>\n"


@pytest.mark.parametrize("template", [COUNTS, DROPS, "", "always the same"])
def test_a_template_that_is_no_sum_of_pieces_is_not_taken_apart(template: str) -> None:
    assert chat_format(renderer(template)) is None


@pytest.mark.parametrize("template", [SMOLLM2, LLAMA3, GEMMA, ZEPHYR])
@given(system=st.text(max_size=20), words=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=5))
def test_ollamas_file_says_what_the_template_says(template: str, system: str, words: list[str]) -> None:
    render = renderer(template)
    found = chat_format(render)
    chat = [{"role": ("user", "assistant")[n % 2], "content": word.strip() or "x"} for n, word in enumerate(words)]
    chat = chat if chat[-1]["role"] == "user" else chat[:-1]
    if found.system and system.strip():
        chat = [{"role": "system", "content": system.strip()}, *chat]
    written = modelfile("m.gguf", found)
    quoted = re.search(r'TEMPLATE """(.*)"""', written, re.DOTALL)[1]
    assert as_ollama(quoted, chat) == render(chat, answering=True)
    assert written.startswith("FROM ./m.gguf\n")
    assert f'PARAMETER stop "{found.end_of_turn}"' in written


@pytest.mark.parametrize("piece", ["{{", "}}", '"""'])
def test_words_that_ollama_would_read_as_its_own_make_no_file(piece: str) -> None:
    found = chat_format(renderer(SMOLLM2))
    hostile = found.model_copy(update={"opening": piece})
    assert isinstance(found, ChatFormat)
    assert modelfile("m.gguf", hostile) is None
