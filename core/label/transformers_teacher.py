"""The teacher in a process of its own: a Hugging Face folder through transformers; worker.py is the process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from pydantic import ValidationError

from core import errors
from core.config import LabelConfig, patient_openmp
from core.contract import Contract, Stage
from core.errors import EdgekilnError, TeacherFailed
from core.events import Note, OnEvent
from core.label.batching import Pool
from core.label.request import Reply, Request
from core.label.teachers import Trouble
from core.label.tool_calls import with_calls_apart
from core.process import Child, beside, status_within, worker_module

_END_S = 10.0  # what a process that closed its pipe may take to end, so that its status can be told


class Start(Contract):
    """Which model is loaded, and how."""

    folder: str
    quantisation: Literal["nf4", "fp4", "none"]
    rows: int


class Question(Contract):
    """What the process is asked: the padded lengths of prompts, or the answers to prompts of one padded length."""

    wants: Literal["lengths", "answers"]
    requests: tuple[Request, ...]


class Ready(Contract):
    """The model is loaded."""

    where: str


class Lengths(Contract):
    """The padded length of each prompt, or why it cannot be asked."""

    lengths: tuple[int | Trouble, ...]


class Answers(Contract):
    """What became of each prompt; `notes` are for the user."""

    outcomes: tuple[Reply | Trouble, ...]
    notes: tuple[str, ...]


class Refusal(Contract):
    """An error of core/errors.py; the process ends with it."""

    error: str
    problem: str
    remedy: str

    def raised(self) -> EdgekilnError:
        """Return the error itself."""
        found: EdgekilnError = getattr(errors, self.error)(self.problem, remedy=self.remedy)
        return found


Told = TypeVar("Told", bound=Contract)


class TransformersTeacher:
    """A loaded model. It takes requests ahead, so that prompts of like length are decoded together."""

    concurrency = 1
    batches = True

    def __init__(self, process: _Process, rows: int, on_event: OnEvent, ending: ExitStack) -> None:
        self._process = process
        self._rows = rows
        self._on_event = on_event
        self._ending = ending

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply | Trouble]]:
        """Ask in batches of one padded length; TeacherFailed when the process died, with the last it said."""
        pool, source, ending = Pool(self._rows), iter(requests), False
        while not ending or len(pool):
            room = 0 if ending else pool.room
            drawn = list(islice(source, room))
            ending = ending or len(drawn) < room
            for request, length in self._measured(drawn):
                if isinstance(length, Trouble):
                    yield request, length
                else:
                    pool.add(request, length)
            yield from self._answered(pool.take())

    def _measured(self, requests: Sequence[Request]) -> Iterable[tuple[Request, int | Trouble]]:
        if not requests:
            return ()
        told = self._process.ask(Question(wants="lengths", requests=tuple(requests)), Lengths)
        return zip(requests, told.lengths, strict=True)

    def _answered(self, requests: Sequence[Request]) -> Iterable[tuple[Request, Reply | Trouble]]:
        if not requests:
            return ()
        told = self._process.ask(Question(wants="answers", requests=tuple(requests)), Answers)
        for note in told.notes:
            self._on_event(Note(stage=Stage.LABEL, text=note, level="warning"))
        return zip(requests, map(with_calls_apart, requests, told.outcomes), strict=True)

    def close(self) -> None:
        """End the process."""
        self._ending.close()


class _Process:
    """The pipes to the process. It answers each question before the next, so neither side waits for the other's pipe."""

    def __init__(self, to: FileIO, back: BinaryIO, child: Child, log: Path) -> None:
        self._to = to
        self._back = back
        self._child = child
        self._log = log

    def ask(self, message: Contract, told: type[Told]) -> Told:
        """Send a message and return what it is answered with; the process's own error is raised here again."""
        left = memoryview(message.model_dump_json().encode() + b"\n")
        try:
            while left:
                left = left[self._to.write(left) :]
        except BrokenPipeError as error:
            raise self._dead() from error
        line = self._back.readline()
        if not line.endswith(b"\n"):
            raise self._dead()
        try:
            return told.model_validate_json(line)
        except ValidationError:
            raise Refusal.model_validate_json(line).raised() from None

    def _dead(self) -> TeacherFailed:
        status = status_within(self._child, _END_S)
        how = f"by signal {signal.Signals(-status).name}" if status is not None and status < 0 else f"with status {status}"
        tail = " | ".join(self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        return TeacherFailed(
            f"the teacher's process ended {how}: {tail or 'it left no word'}",
            remedy=f"Read {self._log}; when it was killed for memory, set label.quantisation to nf4 or lower"
            " label.batch_size. Then run the same command again: no answer is lost.",
        )


def load(folder: Path, config: LabelConfig, log: Path, on_event: OnEvent) -> TransformersTeacher:
    """Load a Hugging Face folder; TeacherFailed when transformers cannot use it or it holds no chat template."""
    log.unlink(missing_ok=True)
    with ExitStack() as stack:
        process = stack.enter_context(_started(log))
        start = Start(folder=str(folder), quantisation=config.quantisation, rows=config.batch_size)
        ready = process.ask(start, Ready)
        text = f"teacher {config.teacher} is loaded on {ready.where}, {config.batch_size} prompts a batch"
        on_event(Note(stage=Stage.LABEL, text=text))
        return TransformersTeacher(process, config.batch_size, on_event, stack.pop_all())


@contextmanager
def _started(log: Path) -> Iterator[_Process]:
    question_read, question_write = os.pipe()
    answer_read, answer_write = os.pipe()
    argv = worker_module("core.label.worker", str(question_read), str(answer_write))
    env = {"EDGEKILN_PARENT": str(os.getpid()), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with FileIO(question_write, "wb") as to, os.fdopen(answer_read, "rb") as back, ExitStack() as stack:
        try:
            with patient_openmp():
                child = stack.enter_context(beside(argv, log=log, env=env, pass_fds=(question_read, answer_write)))
        finally:
            os.close(question_read)
            os.close(answer_write)
        yield _Process(to, back, child, log)
