"""What a teacher is, and which one a configuration names: in_process.py, transformers_teacher.py or endpoint.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Protocol

from core import catalogue, models
from core.config import LabelConfig, cache_folder
from core.contract import Contract
from core.errors import ToolMissing
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
    catalogue.check_backend(card, config.backend)
    identity = models.identity(card)
    if config.backend == "openai":
        return Choice(ref=models.ref(card), identity=identity, tools={})
    if config.backend == "transformers":
        tools = _libraries(config)
        named = ", ".join(f"{name} {version}" for name, version in tools.items())
        bits = "" if config.quantisation == "none" else f" in {config.quantisation}"
        identity = f"{identity}{bits} on {named}"
        return Choice(ref=models.ref(card), identity=identity, tools=tools)
    from core import toolchain

    runtime = toolchain.ensure(on_event).identity()
    return Choice(ref=models.ref(card), identity=f"{identity} on llama.cpp {runtime}", tools={"llama.cpp": runtime})


def _libraries(config: LabelConfig) -> dict[str, str]:
    """Return the versions of what shapes the answers of a model in transformers; ToolMissing names what is not installed."""
    names = ["transformers", "torch", "llguidance", *(["bitsandbytes"] if config.quantisation != "none" else [])]
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise ToolMissing(
                f"{name} is not installed, label.backend is transformers", remedy="pip install 'edgekiln[teacher,train]'"
            ) from error
    return found


def open_teacher(config: LabelConfig, on_event: OnEvent, beside: Path | None) -> Teacher:
    """Load the teacher, here or in a process of its own, or connect to its endpoint; TeacherFailed, ToolMissing."""
    card = catalogue.model(config.teacher, beside)
    if config.backend == "openai":
        from core.label import endpoint

        return endpoint.connect(card, config)
    if config.backend == "transformers":
        from core.label import transformers_teacher

        log = cache_folder() / "logs" / f"teacher-{card.name}.log"
        return transformers_teacher.load(models.fetch(card, on_event), config, log, on_event)
    from core.label import in_process

    return in_process.load(models.fetch(card, on_event), on_event)
