"""Lets a GGUF file answer prompts, several at once, and scores the answers that were hoped for. A process of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import isfinite
from pathlib import Path

from core import toolchain
from core.compare.answers import Answers, AskRequest, Given
from core.compare.questions import Question
from core.errors import TeacherFailed
from core.events import OnEvent, Progress
from core.export.gguf_loss.runner import Runner, refused, surprise
from core.label import gguf_model
from core.label.gguf_model import GgufModel, Refused
from core.label.in_process import LlamaTeacher
from core.label.request import Reply, Request
from core.label.teachers import Trouble
from core.worker_process import main

_LONGEST = 8192  # tokens of a prompt with its answer that are scored

Scored = tuple[list[int], int]  # ids, and at which of them the answer begins


def work(request: AskRequest, _folder: Path, on_event: OnEvent) -> Answers:
    """Answer, then score; GateRefused for a file that llama.cpp cannot load or that holds no chat template."""
    toolchain.use_libraries(request.toolchain)
    path = Path(request.gguf)
    try:
        model = gguf_model.load(path, on_event)
    except TeacherFailed as error:
        raise refused(path.name, error.problem.rpartition(": ")[2]) from error
    ids = [_ids(model, question) for question in request.questions]
    teacher = LlamaTeacher(model)
    began_s = time.perf_counter()
    given = dict(_answers(teacher, request, on_event)) if request.max_tokens else {}
    seconds = time.perf_counter() - began_s
    teacher.close()
    nats = _nats(path, {place: one for place, one in enumerate(ids) if one is not None}, on_event)
    tokens = sum(one.completion_tokens for one in given.values())
    return Answers(
        given=tuple(
            given.get(place, Given(row_id=question.row_id)).model_copy(update=nats.get(place, {}))
            for place, question in enumerate(request.questions)
        ),
        tokens_per_s=tokens / seconds if tokens else None,
    )


def _request(question: Question, max_tokens: int) -> Request:
    return Request(
        teacher="compared",
        messages=question.messages,
        temperature=0.0,
        max_tokens=max_tokens,
        seed=0,
        tools=question.tools,
    )


def _answers(teacher: LlamaTeacher, request: AskRequest, on_event: OnEvent) -> Iterator[tuple[int, Given]]:
    """Yield the answers with the places of their questions, as they come; rows of a file may share an id."""
    asked = [_request(question, request.max_tokens) for question in request.questions]
    places = {id(one): place for place, one in enumerate(asked)}
    task, total = f"answers of {Path(request.gguf).name}", len(asked)
    for done, (one, outcome) in enumerate(teacher.answer(asked), 1):
        place = places[id(one)]
        on_event(Progress(stage=None, task=task, done=done, total=total, unit="prompts"))
        yield place, _given(request.questions[place].row_id, outcome)


def _given(row_id: str, outcome: Reply | Trouble) -> Given:
    if isinstance(outcome, Trouble):
        return Given(row_id=row_id, finish_reason="trouble", trouble=outcome.reason)
    return Given(
        row_id=row_id,
        text=outcome.text,
        tool_calls=outcome.tool_calls,
        finish_reason=outcome.finish_reason,
        completion_tokens=outcome.completion_tokens,
    )


def _ids(model: GgufModel, question: Question) -> Scored | None:
    """Return the prompt with the hoped-for text, None where there is no text or the template refuses the prompt."""
    if not question.answer.content:
        return None
    try:
        prompt, _ = model.render(_request(question, 1))
        begun, whole = model.tokenise(prompt), model.tokenise(prompt + question.answer.content)
    except Refused:
        return None
    same = next((at for at, (one, other) in enumerate(zip(begun, whole, strict=False)) if one != other), len(begun))
    return (whole, max(1, same)) if len(whole) <= _LONGEST and same < len(whole) else None


def _nats(path: Path, scored: dict[int, Scored], on_event: OnEvent) -> dict[int, dict[str, float | int]]:
    if not scored:
        return {}
    runner = Runner(path, max(len(ids) for ids, _ in scored.values()))
    found: dict[int, dict[str, float | int]] = {}
    for done, (place, (ids, start)) in enumerate(scored.items(), 1):
        logits = runner.decode(ids, 0, range(start - 1, len(ids) - 1))
        nats = sum(surprise(at, token) for at, token in zip(logits, ids[start:], strict=True))
        if not isfinite(nats):
            raise refused(path.name, f"its loss on a prompt of {start} tokens is {nats}: its weights overflow")
        found[place] = {"nats": nats, "scored_tokens": len(ids) - start}
        on_event(Progress(stage=None, task=f"loss of {path.name}", done=done, total=len(scored), unit="prompts"))
    return found


if __name__ == "__main__":
    main(AskRequest, work)
