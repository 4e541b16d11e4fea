"""Starts processes that take trials of a study, and says how many trials they ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.config import share_of_machine
from core.contract import Stage
from core.env import gpu
from core.errors import ProcessFailed
from core.events import Note, OnEvent
from core.search.request import TrialsDone, TrialsRequest
from core.worker_process import call_together

_GRACE_S = 30.0  # a trial's own worker saves before it ends


def take_trials(request: TrialsRequest, names: Sequence[str], on_event: OnEvent) -> int:
    """Run one process for each name until there are enough trials, and return how many these ended.

    ProcessFailed when all of them died without a word.
    """
    folder, processes = Path(request.study) / "workers", len(names)
    gpus = len(gpu.read({}).gpus)
    done = call_together(
        "core.search.trial.worker",
        [(request, folder / name, share_of_machine(number, processes, gpus)) for number, name in enumerate(names)],
        TrialsDone,
        on_event,
        grace_s=_GRACE_S,
    )
    if all(one is None for one in done):
        log = folder / names[0] / "worker.log"
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it left no word"])[-1]
        raise ProcessFailed(
            f"{processes} of {processes} trial processes died: {last}",
            remedy=f"Read {log}; the same command goes on where this one stopped.",
        )
    if lost := sum(one is None for one in done):
        text = f"{lost} of {processes} trial processes died; their trials are made again"
        on_event(Note(stage=Stage.SEARCH, text=text, level="warning"))
    return sum(one.ended for one in done if one is not None)
