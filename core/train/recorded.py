"""What metrics.jsonl tells of a training, read as far as it was written and again as it grows."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, FiniteFloat, TypeAdapter, ValidationError

_MAX_LINE_BYTES = 1 << 20


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer edgekiln may tell more

    at: AwareDatetime


class Start(_Line):
    """A process that began at a step, or went back to it; `speed` is metrics.speed_key of its settings."""

    after_step: int
    steps: int
    rows: int
    device: str
    device_name: str
    host: str
    processes: int
    trainable_parameters: int
    speed: str


class Step(_Line):
    """One optimiser step; None for what could not be read. Utilisation is a share of 1."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float | None = None
    trained_tokens: int
    tokens: int
    step_s: FiniteFloat
    tokens_per_s: FiniteFloat
    rss_bytes: int | None = None
    cuda_bytes: int | None = None
    cuda_peak_bytes: int | None = None
    gpu_utilisation: float | None = None
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None
    layer_grad_norms: dict[str, float] | None = None


class HeldOut(_Line):
    """The held-out loss after a step; step 0 is the base's."""

    step: int
    held_out_loss: float


_KINDS: dict[str, TypeAdapter[Any]] = {
    kind: TypeAdapter(model) for kind, model in (("start", Start), ("step", Step), ("held-out", HeldOut))
}


class Point(NamedTuple):
    """A step as it is kept of a long training; `wall_s` is from the step before, None across a start."""

    step: int
    loss: float
    grad_norm: float | None
    wall_s: float | None
    step_s: float


class Recorded:
    """A training's metrics so far; `refresh` reads what was added since. A broken line is passed over.

    When a training goes back, the steps that it took in vain are dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._inode: int | None = None
        self._clear()

    def _clear(self) -> None:
        self._offset = 0
        self.points: list[Point] = []
        self.held_out: list[HeldOut] = []
        self.start: Start | None = None
        self.last: Step | None = None
        self.layers: Step | None = None
        self.tokens = self.trained_tokens = 0
        self._line_before: AwareDatetime | None = None

    def refresh(self) -> None:
        """Read the lines that were added; from the beginning where the file is another one, nothing where it is not there."""
        try:
            with self.path.open("rb") as stream:
                self._read(stream)
        except FileNotFoundError:
            self._clear()

    def _read(self, stream: BinaryIO) -> None:
        found = os.fstat(stream.fileno())
        if found.st_ino != self._inode or found.st_size < self._offset:
            self._clear()
            self._inode = found.st_ino
        stream.seek(self._offset)
        for line in _whole_lines(stream):
            self._offset += len(line)
            self._take(line)

    def _take(self, text: bytes) -> None:
        try:
            told = json.loads(text)
            line = _KINDS[told["kind"]].validate_python(told)
        except (ValueError, KeyError, TypeError, ValidationError):
            return
        match line:
            case Start():
                self._begin(line)
            case Step():
                self._step(line)
            case HeldOut():
                others = [one for one in self.held_out if one.step != line.step]
                self.held_out = sorted([*others, line], key=lambda one: one.step)

    def _begin(self, line: Start) -> None:
        self.start = line
        while self.points and self.points[-1].step > line.after_step:
            self.points.pop()
        self.held_out = [one for one in self.held_out if one.step <= line.after_step]
        self._line_before = None

    def _step(self, line: Step) -> None:
        since = None if self._line_before is None else (line.at - self._line_before).total_seconds()
        wall = None if since is None else max(since, line.step_s)  # a clock that was put back tells too little
        while self.points and self.points[-1].step >= line.step:
            self.points.pop()
        self.points.append(Point(line.step, line.loss, line.grad_norm, wall, line.step_s))
        self.last, self._line_before = line, line.at
        self.tokens += line.tokens
        self.trained_tokens += line.trained_tokens
        if line.layer_grad_norms:
            self.layers = line


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that end; a line longer than any that is written is cut, and so is broken."""
    while (line := stream.readline(_MAX_LINE_BYTES)).endswith(b"\n") or len(line) == _MAX_LINE_BYTES:
        yield line


def is_written(path: Path) -> bool:
    """Say whether a training holds its metrics open now."""
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
