"""What a teacher is, and which of the two a configuration names: in_process.py or endpoint.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from core import catalogue, models
from core.catalogue import EndpointModel
from core.config import LabelConfig
from core.contract import Contract
from core.errors import BadConfig
from core.events import OnEvent
from core.label.request import Reply, Request
from core.nouns import ModelRef


class Trouble(Contract):
    """Why one request got no answer, by its reject code; `retry_after_s` is what the endpoint asked for."""

    reason: str
    retryable: bool
    code: str = "teacher-error"
    retry_after_s: float | None = None


class Teacher(Protocol):
    """Answers requests; so many calls of `answer` may run at once as `concurrency` says, each with requests of its own.

    One that `batches` answers the requests of one call side by side; the others are asked one request a call.
    """

    concurrency: int
    batches: bool

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply | Trouble]]:
        """Ask each request once and yield it with what became of it, in any order; TeacherFailed when none can succeed.

        A request is taken only when the teacher can begin with it, as a request that was taken counts as sent.
        """
        ...

    def close(self) -> None:
        """Let go of what the teacher holds; requests in flight end with a Trouble."""
        ...


class Choice(Contract):
    """The teacher of a configuration, before anything is loaded; `identity` enters the ledger's keys."""

    ref: ModelRef
    identity: str
    tools: dict[str, str]


def choose(config: LabelConfig, on_event: OnEvent, beside: Path | None) -> Choice:
    """Return who the teacher is; BadConfig for a backend that cannot have it. Builds llama.cpp where it is missing."""
    card = catalogue.model(config.teacher, beside)
    identity = models.identity(card)
    if config.backend == "openai":
        return Choice(ref=models.ref(card), identity=identity, tools={})
    if isinstance(card.source, EndpointModel):
        raise BadConfig(
            f"label.teacher {card.name} lives behind an endpoint, label.backend is {config.backend}",
            remedy="Set label.backend to openai and give label.base_url.",
        )
    from core import toolchain

    runtime = toolchain.ensure(on_event).identity()
    return Choice(ref=models.ref(card), identity=f"{identity} on llama.cpp {runtime}", tools={"llama.cpp": runtime})


def open_teacher(config: LabelConfig, on_event: OnEvent, beside: Path | None) -> Teacher:
    """Load the teacher in process or connect to its endpoint; TeacherFailed, ToolMissing."""
    card = catalogue.model(config.teacher, beside)
    if config.backend == "openai":
        from core.label import endpoint

        return endpoint.connect(card, config)
    from core.label import in_process

    return in_process.load(models.fetch(card, on_event), on_event)
