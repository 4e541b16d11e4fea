"""The real SmolLM2 as teacher, in this process and behind a real llama-server on loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import LabelConfig
from core.contract import Stage
from core.data.record import Message, read_labeled
from core.errors import TeacherFailed
from core.events import ignore
from core.label import in_process
from core.label.ask import first_request
from core.label.label import label
from core.label.request import Reply, Request
from core.label.teachers import Trouble, open_teacher

pytestmark = pytest.mark.model

SYSTEM = "Answer the question from the documentation in one sentence."
DOCS = {
    "os.path.basename": "Returns the final component of a pathname.",
    "bisect.bisect_left": "Return the index where to insert item x in list a, assuming a is sorted.",
}


@pytest.fixture(scope="module")
def teacher(toolchain, default_gguf) -> Iterator[in_process.LlamaTeacher]:
    loaded = in_process.load(default_gguf, ignore)
    yield loaded
    loaded.close()


@pytest.fixture
def asked(make_rows) -> list[Request]:
    rows = make_rows(2, system=SYSTEM)
    changes = [
        {"context": text, "user": f"What does `{name}` do in Python? Answer in one sentence."}
        for name, text in DOCS.items()
    ]
    config = LabelConfig(teacher="smollm2-135m-instruct", max_tokens=16)
    return [first_request(row.model_copy(update=change), "t", config) for row, change in zip(rows, changes, strict=True)]


def _answer(teacher, request: Request) -> Reply | Trouble:
    ((_, outcome),) = teacher.answer([request])
    return outcome


def test_greedy_answers_do_not_depend_on_what_was_asked_before(teacher, asked) -> None:
    forth = [reply.text for _, reply in teacher.answer(asked)]
    back = [reply.text for _, reply in teacher.answer(reversed(asked))]
    assert forth == back[::-1]
    assert all(forth)


def test_a_schema_is_kept_by_the_grammar(teacher) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "guests": {"type": "integer"}},
        "required": ["city", "guests"],
        "additionalProperties": False,
    }
    text = "A table for four in Lyon, please. Answer in JSON."
    reply = _answer(
        teacher,
        Request(
            teacher="t",
            messages=(Message(role="user", content=text),),
            temperature=0.0,
            max_tokens=64,
            seed=1,
            answer_schema=schema,
        ),
    )
    assert isinstance(reply, Reply)
    assert reply.finish_reason == "stop"
    assert set(json.loads(reply.text)) == {"city", "guests"}


def test_a_prompt_beyond_the_context_is_a_trouble_of_that_row_alone(teacher, asked) -> None:
    long = asked[0].model_copy(update={"messages": (Message(role="user", content="word " * 9000),)})
    trouble = _answer(teacher, long)
    assert isinstance(trouble, Trouble)
    assert not trouble.retryable
    assert isinstance(_answer(teacher, asked[0]), Reply)


def test_a_file_that_is_no_model_is_refused(toolchain, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really" * 100)
    with pytest.raises(TeacherFailed, match=r"x.gguf cannot be used"):
        in_process.load(tmp_path / "x.gguf", ignore)


def test_a_model_without_a_chat_template_is_refused(toolchain, default_gguf, tmp_path: Path) -> None:
    bare = tmp_path / "bare.gguf"
    shutil.copyfile(default_gguf, bare)
    data = bare.read_bytes()
    at = data.index(b"tokenizer.chat_template")
    with bare.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"tokenizer.chat_templatX")
    with pytest.raises(TeacherFailed, match="no chat template"):
        in_process.load(bare, ignore)


def test_the_stage_labels_with_the_packaged_model(workspace, events, toolchain, make_dataset, make_rows) -> None:
    rows = make_rows(4, system=SYSTEM, context=DOCS["os.path.basename"])
    config = LabelConfig(teacher="smollm2-135m-instruct", max_tokens=24, context_distillation=True, max_failed_share=1)
    artifact = label(make_dataset(workspace, rows), config, workspace, events.append)
    assert artifact.tools["llama.cpp"] == toolchain.identity()
    assert artifact.asked >= 4
    labeled = read_labeled(workspace.folder(Stage.LABEL, artifact.artifact_id) / "train.jsonl")
    assert all([message.role for message in row.messages] == ["user", "assistant"] for row in labeled)


@pytest.fixture
def llama_server(toolchain, default_gguf, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = [str(toolchain.program("llama-server")), "-m", str(default_gguf), "--host", "127.0.0.1", "--port", str(port)]
    calm = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # spinning threads starve on a shared machine
    with (tmp_path / "server.log").open("wb") as log:
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


def test_llama_server_gives_the_same_greedy_text_as_the_model_in_process(teacher, asked, llama_server) -> None:
    config = LabelConfig(teacher="smollm2-135m-instruct", backend="openai", base_url=llama_server, timeout_s=60.0)
    behind = open_teacher(config, ignore, None)
    try:
        served = [reply for _, reply in behind.answer(asked)]
    finally:
        behind.close()
    here = [reply for _, reply in teacher.answer(asked)]
    assert [reply.text.strip() for reply in served] == [reply.text.strip() for reply in here]
    assert [reply.prompt_tokens for reply in served] == [reply.prompt_tokens for reply in here]
