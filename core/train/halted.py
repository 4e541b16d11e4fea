"""What a worker leaves behind when it stops at a step that stands out: the alarm and, from a replay, figures of rows."""

from __future__ import annotations

from pathlib import Path

from pydantic import FiniteFloat

from core.contract import Contract
from core.files import write_atomic
from core.train.alarm import Alarm

_FILE = "halted.json"


class RowFigures(Contract):
    """A training row alone on the replayed weights: its mean loss and the norm of its gradient, None where it is no number."""

    row_id: str
    loss: FiniteFloat | None
    grad_norm: FiniteFloat | None


class Evidence(Contract):
    """The rows of the suspicious step, or of the steps of a run, and others on the same weights."""

    rows: tuple[RowFigures, ...]
    others: tuple[RowFigures, ...]


class Halted(Contract):
    """Why a worker stopped before a step changed a weight; `evidence` where that step was being replayed."""

    alarm: Alarm
    evidence: Evidence | None = None


class Halt(Exception):
    """Ends a worker's training where it stands."""

    def __init__(self, halted: Halted) -> None:
        super().__init__(halted.alarm.text)
        self.halted = halted


def leave(folder: Path, halted: Halted) -> None:
    """Write it into the worker's folder."""
    write_atomic(folder / _FILE, halted.model_dump_json().encode())


def is_there(folder: Path) -> bool:
    """Say whether a worker left one in its folder."""
    return (folder / _FILE).exists()


def taken(folder: Path) -> Halted | None:
    """Return what a worker left in its folder and take it away, None where it stopped for another reason."""
    path = folder / _FILE
    if not path.exists():
        return None
    halted = Halted.model_validate_json(path.read_bytes())
    path.unlink()
    return halted
