"""The real SmolLM2 through transformers, beside the same weights through llama.cpp, in process and behind its server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from core.config import LabelConfig
from core.data import docs
from core.data.record import Message
from core.events import ignore
from core.export.convert import convert
from core.label import in_process, transformers_teacher
from core.label.request import Reply, Request, TokenLogprob
from core.label.teachers import Teacher, open_teacher

pytestmark = [pytest.mark.model, pytest.mark.full]

TOKENS = 32
APART = 0.1  # llama.cpp's cache holds 16-bit numbers, so texts may part where the two best tokens lie closer


@pytest.fixture(scope="module")
def asked() -> list[Request]:
    rows = [json.loads(line) for line in docs.generate(40).splitlines()]
    return [
        Request(
            teacher="t",
            messages=(
                Message(role="system", content=row["system_hint"]),
                Message(role="user", content=f"{row['context']}\n\n{row['user']}"),
            ),
            temperature=0.0,
            max_tokens=TOKENS,
            seed=1,
            top_logprobs=2,
        )
        for row in rows
    ]


@pytest.fixture(scope="module")
def teacher(smollm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Teacher]:
    config = LabelConfig(teacher="smollm2", backend="transformers")
    loaded = transformers_teacher.load(smollm_folder, config, tmp_path_factory.mktemp("log") / "log", ignore)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def told(teacher: Teacher, asked: list[Request]) -> dict[str, Reply]:
    """What transformers answers, by request."""
    return _replies(teacher, asked)


@pytest.fixture(scope="module")
def gguf(toolchain, smollm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as an F32 GGUF."""
    target = tmp_path_factory.mktemp("gguf") / "smollm2-F32.gguf"
    convert(smollm_folder, target, "smollm2", toolchain, ignore, timeout_s=300)
    return target


@pytest.fixture(scope="module")
def llama_server(toolchain, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [str(toolchain.program("llama-server")), "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port)]
    calm = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with (tmp_path_factory.mktemp("server") / "log").open("wb") as log:
        child = subprocess.Popen([*argv, "-c", "2048", "-np", "1", "-t", "2"], env=calm, stdout=log, stderr=log)
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        child.kill()
        child.wait()


def _wait_until_ready(url: str) -> None:
    deadline = time.perf_counter() + 60
    while time.perf_counter() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    pytest.fail("llama-server did not get ready within 60 s")


def _replies(teacher: Teacher, asked: list[Request]) -> dict[str, Reply]:
    found = {request.key: outcome for request, outcome in teacher.answer(asked)}
    assert all(isinstance(outcome, Reply) for outcome in found.values())
    return {key: outcome for key, outcome in found.items() if isinstance(outcome, Reply)}


def _margin(token: TokenLogprob) -> float:
    return token.top[0][2] - token.top[1][2]


def _agree(one: Reply, other: Reply) -> bool:
    """Say whether two answers are equal, token by token; where they part, the model must have been unsure there.

    One of them may have ended at that place, and tells no margin then.
    """
    for mine, theirs in zip_longest(one.logprobs, other.logprobs):
        if mine is None or theirs is None or mine.token != theirs.token:
            margins = [_margin(token) for token in (mine, theirs) if token is not None]
            assert min(margins) < APART, (one.text, other.text)
            return False
    assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
    return True


def test_other_neighbours_and_another_place_change_no_bit_of_an_answer(told, teacher: Teacher, asked) -> None:
    for key, reply in _replies(teacher, asked[30:] + asked[3:14:2]).items():
        assert (reply.text, reply.logprobs) == (told[key].text, told[key].logprobs)


@pytest.fixture(scope="module")
def here(gguf: Path, asked: list[Request]) -> dict[str, Reply]:
    """What llama.cpp answers in this process."""
    teacher = in_process.load(gguf, ignore)
    try:
        return _replies(teacher, asked)
    finally:
        teacher.close()


@pytest.fixture(scope="module")
def behind(llama_server: str, asked: list[Request]) -> dict[str, Reply]:
    """What llama-server answers."""
    config = LabelConfig(teacher="smollm2-135m-instruct", backend="openai", base_url=llama_server, timeout_s=60.0)
    teacher = open_teacher(config, ignore, None)
    try:
        return _replies(teacher, asked)
    finally:
        teacher.close()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pair", [("told", "here"), ("told", "behind"), ("here", "behind")], ids=" and ".join)
def test_two_teachers_give_the_same_greedy_text_where_the_model_is_sure(pair, request, record_property) -> None:
    one, other = (request.getfixturevalue(name) for name in pair)
    for key, reply in one.items():
        assert reply.logprobs
        assert other[key].prompt_tokens == reply.prompt_tokens
    equal = sum(_agree(reply, other[key]) for key, reply in one.items())
    record_property("equal_texts_of_40", equal)
    assert equal >= 30


def test_an_answer_that_parts_where_the_model_is_sure_is_seen(told: dict[str, Reply]) -> None:
    reply = next(reply for reply in told.values() if _margin(reply.logprobs[4]) > APART)
    wrong = reply.logprobs[4].model_copy(update={"token": 7})
    other = reply.model_copy(update={"logprobs": (*reply.logprobs[:4], wrong, *reply.logprobs[5:])})
    with pytest.raises(AssertionError):
        _agree(reply, other)
    with pytest.raises(AssertionError):
        _agree(reply, reply.model_copy(update={"logprobs": reply.logprobs[:4]}))
