"""`edgekiln label serve`: the real llama-server, labelled against as a user would, and gone with whoever started it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.config import LabelConfig
from core.data.record import Message
from core.errors import TeacherFailed
from core.events import ignore
from core.label import in_process
from core.label.label import label
from core.label.request import Reply, Request
from core.label.teachers import Trouble, open_teacher

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.model
TIE_NATS = 0.1
DOCUMENTATION = "Returns the final component of a pathname."


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli.main", "label", "serve", *words]


@contextmanager
def started(*words: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start a server and yield its process with what it said when it was ready; it is ended in any case."""
    argv = command("--port", "0", "--slots", "2", "--context", "1024", "--json", *words)
    with subprocess.Popen(
        argv, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            told = ""
            while not told.endswith("}\n"):
                line = child.stdout.readline()
                assert line, child.stderr.read()
                told += line
            yield child, json.loads(told)
        finally:
            child.kill()


def gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def config(served: dict[str, Any], **more: Any) -> LabelConfig:
    """Return the configuration that the server said to use."""
    settings = dict(setting.removeprefix("label.").split("=", 1) for setting in served["settings"])
    return LabelConfig(teacher="smollm2-135m-instruct", timeout_s=60.0, **settings, **more)


def questions() -> list[Request]:
    return [
        Request(
            teacher="t",
            messages=(Message(role="user", content=f"Name a {thing}. Answer with one word."),),
            temperature=0.0,
            max_tokens=8,
            seed=1,
        )
        for thing in ("river", "tree", "colour")
    ]


def test_a_dataset_is_labelled_against_it_and_ctrl_c_ends_it(workspace, events, toolchain, make_dataset, make_rows) -> None:
    with started() as (child, served):
        assert served["base_url"].startswith("http://127.0.0.1:")
        assert (served["slots"], served["context"]) == (2, 1024)
        asked = config(served, max_tokens=24, max_failed_share=1.0)
        assert asked.concurrency == 2
        rows = make_rows(8, system="Answer from the documentation in one sentence.", context=DOCUMENTATION)
        artifact = label(make_dataset(workspace, rows), asked, workspace, events.append)
        assert artifact.asked >= 8
        assert artifact.completion_tokens > 0
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=20) == 130
        assert gone(served["pid"])


def same_up_to_a_tie(reply: Reply, other: str) -> bool:
    """Say whether two greedy texts are equal up to a token whose two best were within 0.1 of each other."""
    text = ""
    for token in reply.logprobs:
        if not other.startswith((text + token.text).strip()):
            return token.top[0][2] - token.top[1][2] < TIE_NATS
        text += token.text
    return text.strip() == other


def test_its_greedy_answers_are_those_of_the_model_in_process(toolchain, default_gguf) -> None:
    here = in_process.load(default_gguf, ignore)
    with started() as (child, served):
        behind = open_teacher(config(served), ignore, None)
        there = {request.key: reply for request, reply in behind.answer(questions())}
        behind.close()
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=20) == 143
        assert gone(served["pid"])
    for request in questions():
        ((_, reply),) = here.answer([request.model_copy(update={"top_logprobs": 2})])
        assert same_up_to_a_tie(reply, there[request.key].text.strip())
        assert reply.prompt_tokens == there[request.key].prompt_tokens
    here.close()


def test_kill_9_of_the_command_takes_the_server_along_and_a_key_is_asked_for(
    toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHERS_KEY", "a-secret-of-mine")
    with started("--set", "label.api_key_env=TEACHERS_KEY") as (child, served):
        assert "label.api_key_env=TEACHERS_KEY" in served["settings"]
        assert "a-secret-of-mine" not in " ".join(psutil.Process(served["pid"]).cmdline())
        with_key, without = (
            open_teacher(config(served), ignore, None),
            config(served).model_copy(update={"api_key_env": None}),
        )
        assert not any(isinstance(reply, Trouble) for _, reply in with_key.answer(questions()))
        with_key.close()
        stranger = open_teacher(without, ignore, None)
        with pytest.raises(TeacherFailed, match="refused the key"):
            list(stranger.answer(questions()))
        stranger.close()
        child.kill()
        child.wait()
        assert gone(served["pid"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--port", "70000"), "Must be <= 65535"),
        (("--host", "no.such.host.invalid"), "--host no.such.host.invalid --port 8080: "),
        (("--set", "label.teacher=qwen3-8b"), "lives behind an endpoint and has no files here"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(words: tuple[str, ...], told: str, toolchain) -> None:
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_port_that_is_taken_is_told_at_once(toolchain) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(command("--port", port), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert f"--port {port}: Address already in use" in done.stderr


def test_a_server_that_ends_by_itself_is_told_with_its_last_words(toolchain) -> None:
    with started() as (child, served):
        os.kill(served["pid"], signal.SIGKILL)
        _, errors = child.communicate(timeout=20)
    assert child.returncode == 1
    assert "llama-server ended with status -9" in errors
