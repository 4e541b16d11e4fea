"""Asks the teacher's endpoint one question through the client that labels: is it there, what does it serve, how does it answer."""

from __future__ import annotations

import json
import threading
import time
from typing import Any, Literal

from jsonschema.exceptions import ValidationError
from jsonschema.validators import validator_for

from core.catalogue import ModelCard
from core.config import LabelConfig
from core.contract import Contract
from core.data.record import Message
from core.env.services.web import Way, way_to
from core.errors import TeacherFailed, ToolMissing
from core.label.endpoint import EndpointTeacher, connect, served_name
from core.label.request import Reply, Request
from core.label.teachers import Trouble

# Asked for a sentence, with a schema that no sentence fits: only a server that enforces the schema answers in JSON.
_QUESTION = "How many legs does a cat have? Answer in one short English sentence."
_SCHEMA = {
    "type": "object",
    "properties": {"legs": {"type": "integer"}},
    "required": ["legs"],
    "additionalProperties": False,
}
_MAX_TOKENS = 128

Outcome = Literal["answered", "no-client", "no-key", "unreachable", "refused-key", "no-model", "late", "failed"]

_FAILURES: tuple[tuple[str, Outcome], ...] = (("refused the key", "refused-key"), ("does not serve", "no-model"))


class TeacherAsked(Contract):
    """What to ask: the label section, the teacher's card, the seconds the whole of it may take."""

    label: LabelConfig
    card: ModelCard
    within_s: float


class TeacherReading(Contract):
    """What came of it.

    `problem` says why there is no answer. `served` None is an endpoint that lists no models. `keeps_schema` None is an answer
    that says nothing about it, because it was cut off. `seconds` are those of the one question.
    """

    outcome: Outcome
    url: str
    model: str
    way: Way | None = None
    problem: str | None = None
    remedy: str | None = None
    served: tuple[str, ...] | None = None
    text: str | None = None
    keeps_schema: bool | None = None
    seconds: float | None = None


def read(argument: dict[str, Any]) -> TeacherReading:
    """Ask the teacher; argument: TeacherAsked. Trouble of any kind is a reading."""
    asked = TeacherAsked.model_validate(argument)
    way = way_to(str(asked.label.base_url), asked.within_s / 2)
    if way.kind != "open":
        return _trouble(asked, "unreachable", str(way.problem), way=way)
    label = asked.label.model_copy(update={"timeout_s": asked.within_s, "concurrency": 1})
    try:
        teacher = connect(asked.card, label)
    except ToolMissing as error:
        outcome: Outcome = "no-key" if asked.label.api_key_env else "no-client"
        return _trouble(asked, outcome, error.problem, way=way, remedy=error.remedy)
    return _within(teacher, asked).model_copy(update={"way": way})


def _within(teacher: EndpointTeacher, asked: TeacherAsked) -> TeacherReading:
    """Ask, and cut the connections when the time is up: a slow drip of bytes meets no timeout of the client."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        teacher.close()

    timer = threading.Timer(asked.within_s, cut)
    timer.daemon = True
    timer.start()
    try:
        found = _ask(teacher, asked)
        if found.outcome == "failed" and late.is_set():
            return _trouble(asked, "late", f"no whole answer within {asked.within_s:g} s")
        listed = _served(teacher) if found.outcome in {"answered", "no-model"} else None
        return found.model_copy(update={"served": listed})
    finally:
        timer.cancel()
        teacher.close()


def _served(teacher: EndpointTeacher) -> tuple[str, ...] | None:
    """Return the models it lists, None when it lists none in the time that is left."""
    try:
        listed = teacher.serves()
    except RuntimeError:  # the client's own, when it was closed meanwhile
        return None
    return None if isinstance(listed, Trouble) else listed


def _trouble(asked: TeacherAsked, outcome: Outcome, problem: str, **more: Any) -> TeacherReading:
    url, model = str(asked.label.base_url), served_name(asked.card)
    return TeacherReading(outcome=outcome, url=url, model=model, problem=problem, **more)


def _ask(teacher: EndpointTeacher, asked: TeacherAsked) -> TeacherReading:
    started = time.perf_counter()
    try:
        ((_, reply),) = teacher.answer([_request(asked)])
    except TeacherFailed as error:
        outcome: Outcome = next((name for words, name in _FAILURES if words in error.problem), "failed")
        return _trouble(asked, outcome, error.problem, remedy=error.remedy)
    seconds = time.perf_counter() - started
    if isinstance(reply, Trouble):
        late = reply.reason.startswith("no answer within")
        problem = f"no answer within {asked.within_s:g} s" if late else reply.reason
        return _trouble(asked, "late" if late else "failed", problem, seconds=seconds)
    return TeacherReading(
        outcome="answered",
        url=str(asked.label.base_url),
        model=served_name(asked.card),
        text=reply.text[:200],
        keeps_schema=keeps_schema(reply),
        seconds=seconds,
    )


def _request(asked: TeacherAsked) -> Request:
    return Request(
        teacher=asked.card.name,
        messages=(Message(role="user", content=_QUESTION),),
        temperature=0.0,
        max_tokens=min(asked.label.max_tokens, _MAX_TOKENS),
        seed=asked.label.seed,
        answer_schema=_SCHEMA,
    )


def keeps_schema(reply: Reply) -> bool | None:
    """Whether an answer fits the schema it was asked for; None when it was cut off before one can tell."""
    if reply.finish_reason != "stop":
        return None
    try:
        validator_for(_SCHEMA)(_SCHEMA).validate(json.loads(reply.text.rpartition("</think>")[2]))
    except (ValidationError, ValueError, RecursionError):
        return False
    return True
