"""Asks a GGUF file the prompts of a comparison, in a process of its own, and remembers what it said."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from core.compare.questions import Question
from core.contract import Contract
from core.errors import GateRefused, ProcessFailed
from core.events import OnEvent
from core.export.inspect import read_gguf
from core.files import digest_of, write_atomic
from core.process import ended_by_signal
from core.toolchain import Toolchain
from core.worker_process import call


class AskRequest(Contract):
    """A GGUF file and what it is asked; with `max_tokens` 0 it answers nothing and only the hoped-for answers are scored."""

    gguf: str
    sha256: str
    toolchain: Toolchain
    questions: tuple[Question, ...]
    max_tokens: int = Field(ge=0)


class Given(Contract):
    """A model's answer to one prompt, and how likely it held the one that was hoped for.

    `nats` is the cross-entropy of that answer's text after the prompt as the model's own template writes it, summed over its
    `scored_tokens`; `trouble` says why there is no answer.
    """

    row_id: str
    text: str = ""
    tool_calls: tuple[dict[str, object], ...] = ()
    finish_reason: str = ""
    completion_tokens: int = 0
    nats: float | None = None
    scored_tokens: int = 0
    trouble: str | None = None


class Answers(Contract):
    """A model's answers, in the order of the questions; `tokens_per_s` over all that were generated together."""

    given: tuple[Given, ...]
    tokens_per_s: float | None


def ask(request: AskRequest, folder: Path, on_event: OnEvent, *, timeout_s: float) -> Answers:
    """Return a file's answers, those of an earlier time where it was asked the same; GateRefused when it does not run."""
    kept = folder / f"{digest_of(request.model_dump(mode='json', exclude={'gguf'}))[:12]}.json"
    if (known := _known(kept)) is not None:
        return known
    try:
        found = call("core.compare.worker", request, Answers, folder / kept.stem, on_event, timeout_s=timeout_s)
    except GateRefused as error:
        raise _refused(Path(request.gguf), error.problem) from error
    except ProcessFailed as error:
        if not ended_by_signal(error):
            raise
        why = f"llama.cpp's process {error.problem.partition(' ')[2]}"
        raise _refused(Path(request.gguf), why) from error
    write_atomic(kept, found.model_dump_json(indent=1).encode())
    return found


def _refused(gguf: Path, why: str) -> GateRefused:
    """Return the error of a file that does not run, with what is wrong in it where its header tells."""
    try:
        read_gguf(gguf, "F32")
    except GateRefused as error:
        why = error.problem
    plain = why.removeprefix(f"{gguf.name}").removeprefix(":").strip()
    return GateRefused(f"{gguf}: {plain}", remedy="The file is broken, or no chat model; export or download it again.")


def _known(path: Path) -> Answers | None:
    try:
        return Answers.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
