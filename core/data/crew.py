"""Who judges the batches: this process for little, fresh worker processes for much. Results come in the order of the batches.

A worker is a process of its own, never a fork, as fingerprinting starts threads. Batches go to the workers in turn, so
which worker judges which batch, and with it every result, is the same in every run.
"""

from __future__ import annotations

import os
import pickle
import queue
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from core.data.judging import Judge, Judged, Settings, Totals
from core.data.source import Line
from core.errors import ProcessFailed
from core.process import beside, python_module

BATCH_ROWS = 256
_WORKERS = 2
_AHEAD = 2  # batches a worker has beside the one it judges, so that it never waits
_SIZE = struct.Struct("<Q")


class Crew(Protocol):
    """Judges batches given in order."""

    capacity: int

    def give(self, number: int, lines: Sequence[Line]) -> None:
        """Hand over a batch."""

    def take(self, number: int) -> Judged:
        """Return what became of the earliest batch that was given and not taken."""

    def settle(self, number: int, stayed: Sequence[bool]) -> None:
        """Tell which of a batch's kept rows stay."""

    def totals(self) -> list[Totals]:
        """Return what each judge counted, and end."""


@contextmanager
def open_crew(settings: Settings, workers: int, folder: Path) -> Iterator[Crew]:
    """Open a crew of so many processes, 0 for this one; `folder` takes their logs.

    Tokens are counted only in processes of their own, so with a student there is one at least.
    """
    workers = max(workers, 1) if settings.student else workers
    if not workers:
        yield _Alone(settings)
        return
    with ExitStack() as stack:
        yield _Workers([stack.enter_context(_started(settings, folder / f"judge-{n}.log")) for n in range(workers)])


class _Alone:
    """The judge in this process."""

    capacity = 1

    def __init__(self, settings: Settings) -> None:
        self._judge = Judge(settings)
        self._judged: list[Judged] = []

    def give(self, number: int, lines: Sequence[Line]) -> None:
        self._judged.append(self._judge.judge(number, lines))

    def take(self, number: int) -> Judged:  # noqa: ARG002  # in turn, as they were given
        return self._judged.pop(0)

    def settle(self, number: int, stayed: Sequence[bool]) -> None:
        self._judge.settle(number, stayed)

    def totals(self) -> list[Totals]:
        return [self._judge.totals()]


class _Workers:
    """Processes that take turns."""

    def __init__(self, channels: list[_Channel]) -> None:
        self._channels = channels
        self.capacity = len(channels) * (1 + _AHEAD)

    def give(self, number: int, lines: Sequence[Line]) -> None:
        self._of(number).send("judge", number, lines)

    def take(self, number: int) -> Judged:
        judged: Judged = self._of(number).receive()
        return judged

    def settle(self, number: int, stayed: Sequence[bool]) -> None:
        self._of(number).send("settle", number, stayed)

    def totals(self) -> list[Totals]:
        for channel in self._channels:
            channel.send("totals")
        return [channel.receive() for channel in self._channels]

    def _of(self, number: int) -> _Channel:
        return self._channels[number % len(self._channels)]


class _Channel:
    """The pipes to one worker; what it says is read by a thread, so that neither side waits for the other's pipe."""

    def __init__(self, to: FileIO, back: BinaryIO, log: Path) -> None:
        self._to = to
        self._back = back
        self._log = log
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while (answer := read_message(self._back)) is not None:
            self._answers.put(answer)
        self._answers.put(None)

    def send(self, *message: Any) -> None:
        try:
            write_message(self._to, message)
        except BrokenPipeError as error:
            raise self._dead() from error

    def receive(self) -> Any:
        if (answer := self._answers.get()) is None:
            raise self._dead()
        return answer

    def _dead(self) -> ProcessFailed:
        tail = " | ".join(self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:])
        return ProcessFailed(
            f"a worker of the data stage died: {tail or 'it left no word'}",
            remedy=f"Read {self._log}; when it was killed for memory, give the machine more or lower data.rules.max_prompt_chars.",
        )


@contextmanager
def _started(settings: Settings, log: Path) -> Iterator[_Channel]:
    request_read, request_write = os.pipe()
    answer_read, answer_write = os.pipe()
    argv = python_module("core.data.judge_worker", str(request_read), str(answer_write))
    env = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "EDGEKILN_PARENT": str(os.getpid())}
    with (
        FileIO(request_write, "wb") as to,
        os.fdopen(answer_read, "rb") as back,
        beside(argv, log=log, env=env, pass_fds=(request_read, answer_write)),
    ):
        os.close(request_read)
        os.close(answer_write)
        channel = _Channel(to, back, log)
        channel.send(settings)
        yield channel


def write_message(stream: FileIO, message: Any) -> None:
    """Write one message with its length; nothing is buffered, so that closing the pipe of a dead process raises nothing."""
    data = pickle.dumps(message, protocol=5)
    left = memoryview(_SIZE.pack(len(data)) + data)
    while left:
        left = left[stream.write(left) :]


def read_message(stream: BinaryIO) -> Any:
    """Return the next message, None at the end."""
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        return None
    data = stream.read(_SIZE.unpack(head)[0])
    return pickle.loads(data)  # noqa: S301  # between this program and its own child
