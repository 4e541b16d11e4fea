"""A process of a search: takes one trial after the other, trains it through the train stage's verb, and ends it.

A trial trains in a workspace of its own below the study's folder, named by its settings: tried again it goes on from its
newest verified checkpoint, in whichever process.
"""

from __future__ import annotations

import fcntl
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from core.contract import Stage
from core.errors import OutOfMemory, ProcessFailed, Terminated, TrainingDiverged
from core.events import Evaluated, Event, OnEvent, Progress, TrainStep, TrialEnded
from core.files import digest_of
from core.nouns import Adapter
from core.search.record import Measured, TrialRecord
from core.search.request import TrialsDone, TrialsRequest
from core.search.rows import rows_for_trials
from core.search.space import trial_config
from core.search.study import Trials
from core.train.recorded import Recorded
from core.train.train import train
from core.worker_process import main
from core.workspace import Workspace, open_workspace

if TYPE_CHECKING:
    from optuna.trial import Trial

_BUDGET_CHECK_S = 2.0


class _Worse(Exception):
    """The trial's held-out losses so far are worse than those of half the trials before it."""


class _TimeSpent(Exception):
    """All trials together used up their seconds."""


def work(request: TrialsRequest, folder: Path, on_event: OnEvent) -> TrialsDone:
    """Take and end trials until there are enough."""
    del folder
    signal.signal(signal.SIGTERM, _terminated)
    ended = 0
    with Trials(Path(request.study), request.search, request.train) as trials:
        while (trial := trials.take()) is not None:
            record = _run(request, trials, trial, on_event)
            told = _told(record, trials, request)
            on_event(told)
            on_event(Progress(stage=Stage.SEARCH, task="search", done=told.ended, total=told.trials, unit="trials"))
            ended += 1
    return TrialsDone(ended=ended)


def _terminated(_number: int, _frame: FrameType | None) -> None:
    raise Terminated(
        "SIGTERM: the search stopped", remedy="Start the same command again; it goes on where this one stopped."
    )


def _told(record: TrialRecord, trials: Trials, request: TrialsRequest) -> TrialEnded:
    return TrialEnded(
        number=record.number,
        outcome=record.outcome,
        reason=record.reason,
        held_out_loss=record.measured.held_out_loss if record.measured else None,
        drawn=record.drawn,
        ended=trials.counted(),
        trials=request.search.trials,
    )


def _run(request: TrialsRequest, trials: Trials, trial: Trial, on_event: OnEvent) -> TrialRecord:
    config = trial_config(trial.params, request.train, request.search, _rows(request))
    root = Path(request.study) / "trials" / digest_of(config.shaping())[:12]
    with _alone_in(root):
        if (twin := trials.twin_of(trial)) is not None:  # a space without a rate is soon drawn twice
            return trials.finish(trial, twin[1], f"its settings are those of trial {twin[0]}")
        workspace = open_workspace(root)
        watch = _Watch(trials, trial, config.eval_steps or 1, on_event)
        try:
            labeled = rows_for_trials(request.labeled, request.search, Workspace(Path(request.workspace)), workspace)
            adapter = train(labeled, config, workspace, watch, Path(request.beside) if request.beside else None)
            record = trials.finish(trial, _measured(workspace, adapter))
        except _Worse as error:
            record = trials.end(trial, "pruned", str(error))
        except _TimeSpent as error:
            record = trials.end(trial, "stopped", str(error))
        except TrainingDiverged as error:
            record = trials.end(trial, "diverged", error.problem)
        except (OutOfMemory, ProcessFailed) as error:
            record = trials.end(trial, "failed", error.problem)
        shutil.rmtree(root)
        return record


def _rows(request: TrialsRequest) -> int:
    return request.search.subset_rows or request.labeled.train_rows


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Hold a trial's workspace: two processes that drew the same settings train them once."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name(f"{root.name}.lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _measured(workspace: Workspace, adapter: Adapter) -> Measured:
    recorded = Recorded(workspace.folder(Stage.TRAIN, adapter.artifact_id) / "metrics.jsonl")
    recorded.refresh()
    return Measured(
        held_out_loss=adapter.held_out_loss,
        base_held_out_loss=adapter.base_held_out_loss,
        training_s=sum(point.step_s for point in recorded.points),
        trainable_parameters=adapter.trainable_parameters,
        steps=adapter.steps,
    )


class _Watch:
    """Hears a trial's training: reports its held-out losses, and ends it when it is worse or the time is spent."""

    def __init__(self, trials: Trials, trial: Trial, eval_steps: int, on_event: OnEvent) -> None:
        self._trials = trials
        self._trial = trial
        self._eval_steps = eval_steps
        self._on_event = on_event
        self._checked = time.perf_counter()
        self._is_over = False

    def __call__(self, event: Event) -> None:
        """Take in one event of the training; its own stage events are not the search's."""
        if self._is_over:  # the worker tells how it ends
            return
        if isinstance(event, Evaluated):
            self._evaluated(event)
        elif isinstance(event, TrainStep):
            task = f"trial {self._trial.number}, loss {event.loss:.3f}"
            self._on_event(Progress(stage=Stage.SEARCH, task=task, done=event.step, total=event.steps, unit="steps"))
            self._check_time()

    def _evaluated(self, event: Evaluated) -> None:
        # by the share of the training, not by the step: trials of other batches have other numbers of steps
        if self._trials.report(self._trial, event.step // self._eval_steps, event.held_out_loss):
            self._is_over = True
            raise _Worse(f"held-out loss {event.held_out_loss:.4f} after step {event.step} is worse than the median")

    def _check_time(self) -> None:
        if time.perf_counter() - self._checked < _BUDGET_CHECK_S:
            return
        self._checked = time.perf_counter()
        self._trials.show()
        left = self._trials.left_s()
        if left is not None and left <= 0:
            self._is_over = True
            raise _TimeSpent("search.budget_s is spent")


if __name__ == "__main__":
    main(TrialsRequest, work)
