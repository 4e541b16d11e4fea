"""Lets a GGUF file answer one question through its own chat template, in a process of its own: a broken file may end it."""

from __future__ import annotations

from pathlib import Path

from core import toolchain
from core.contract import Contract
from core.errors import GateRefused, ProcessFailed
from core.events import OnEvent, ignore
from core.process import ended_by_signal
from core.toolchain import Toolchain
from core.worker_process import call

QUESTION = "Say in one sentence what you can help with."
_MAX_TOKENS = 24
_TIMEOUT_S = 900.0  # an 8B file read from a slow disk


class AnswerRequest(Contract):
    """A GGUF file, the libraries that run it, and what it is asked."""

    gguf: str
    toolchain: Toolchain
    question: str
    max_tokens: int


class Answer(Contract):
    """What the file answered, without white space around it."""

    text: str


def answer(gguf: Path, scratch: Path, on_event: OnEvent = ignore, question: str = QUESTION) -> str:
    """Load the file, ask, and return its answer; GateRefused when it cannot be loaded or says nothing."""
    request = AnswerRequest(gguf=str(gguf), toolchain=toolchain.ensure(on_event), question=question, max_tokens=_MAX_TOKENS)
    try:
        given = call("core.export.gguf_answer.worker", request, Answer, scratch, on_event, timeout_s=_TIMEOUT_S)
    except ProcessFailed as error:
        if not ended_by_signal(error):
            raise
        raise _refused(gguf, f"llama.cpp's process {error.problem.partition(' ')[2]}") from error
    if not given.text:
        raise _refused(gguf, "it answered 0 characters, >= 1 is needed")
    return given.text


def _refused(gguf: Path, why: str) -> GateRefused:
    return GateRefused(f"{gguf.name}: {why}", remedy="Nothing was promoted; export again from a sound adapter.")
