"""The trials of a search as one of its processes takes and ends them; trials of dead processes are taken again."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from core.errors import ProcessFailed
from core.search.record import Measured, Outcome, TrialRecord, record_of
from core.search.section import SearchConfig
from core.search.space import Drawn, distributions, settings
from core.search.storage import NAME, Presence, alone, open_storage, open_study, sampler_for
from core.train.section import TrainConfig

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

_FEWEST_FOR_IMPORTANCE = 4  # finished trials that differ
_MAX_RETRIES = 2  # a trial that ends three processes is the reason they end
_COUNTED: frozenset[Outcome] = frozenset({"finished", "pruned", "diverged", "failed"})


class Trials:
    """The study in a folder. Take a trial, report its held-out losses, end it; each at most once, whoever else does the same.

    A context: while it is open its process counts as alive.
    """

    def __init__(self, folder: Path, config: SearchConfig, train: TrainConfig) -> None:
        self._folder = folder
        self._config = config
        self._train = train
        self._storage = open_storage(folder)
        with alone(folder):
            self._study = open_study(self._storage, config)
        self._presence = Presence(folder)
        self._failed_in_a_row = 0  # of this process since its start: a restart tries again

    def __enter__(self) -> Trials:
        self._presence.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._presence.__exit__(kind, error, trace)

    def begin_with(self, drawn: Drawn) -> None:
        """Let the first trial have these values; the rest of it is drawn. Nothing happens once there is a trial."""
        with alone(self._folder):
            if not self._study.get_trials(deepcopy=False):
                self._study.enqueue_trial(dict(drawn))

    def take(self) -> Trial | None:
        """Return the next trial, None when there are enough or their time is spent."""
        with alone(self._folder):
            self._retry_lost()
            if self._is_enough():
                return None
            trials = self._study.get_trials(deepcopy=False)
            self._study.sampler = sampler_for(len(trials), self._config)
            trial = self._study.ask(distributions(self._config.space))
            trial.set_user_attr("process", self._presence.name)
            trial.set_user_attr("settings", settings(trial.params, self._train))
            return trial

    def report(self, trial: Trial, round_number: int, held_out_loss: float) -> bool:
        """Keep a held-out loss on the way, and say whether the trial should end here."""
        self._presence.show()
        if len(self._config.goals) > 1:  # Optuna compares trials of two goals only at their end
            return False
        trial.report(held_out_loss, round_number)
        return bool(trial.should_prune())

    def show(self) -> None:
        """Leave a sign of life."""
        self._presence.show()

    def are_complete(self) -> bool:
        """Say whether as many trials ended as were asked for, or their time is spent."""
        left = self.left_s()
        return self.counted() >= self._config.trials or (left is not None and left <= 0)

    def are_taken(self) -> bool:
        """Say whether processes that live are at all the trials that are still wanted."""
        under_way = sum(self._presence.lives(_process_of(trial)) for trial in self._running())
        return self.counted() + under_way >= self._config.trials

    def left_s(self) -> float | None:
        """Return the seconds of work that are left to all trials together, None without a limit."""
        return None if self._config.budget_s is None else self._config.budget_s - self._spent_s()

    def counted(self) -> int:
        """Return how many trials ended that count."""
        return sum(record.outcome in _COUNTED for record in self.records())

    def twin_of(self, trial: Trial) -> tuple[int, Measured] | None:
        """Return the number of a finished trial with the same settings and what it measured, None without one."""
        mine = trial.user_attrs["settings"]
        same = (record for record in self.records() if record.settings == mine)
        return next(((record.number, record.measured) for record in same if record.measured), None)

    def finish(self, trial: Trial, measured: Measured, reason: str = "") -> TrialRecord:
        """End a trial with what it measured."""
        self._failed_in_a_row = 0
        trial.set_user_attr("measured", measured.model_dump(mode="json"))
        values = [float(getattr(measured, goal)) for goal in self._config.goals]
        return self._end(trial.number, "finished", reason, values)

    def end(self, trial: Trial, outcome: Outcome, reason: str) -> TrialRecord:
        """End a trial that has no result but a reason; ProcessFailed when it is one too many that failed."""
        ended = self._end(trial.number, outcome, reason, None)
        self._failed_in_a_row = self._failed_in_a_row + 1 if outcome == "failed" else 0
        if self._failed_in_a_row >= self._config.max_failed:
            raise ProcessFailed(
                f"{self._failed_in_a_row} trials in a row failed, search.max_failed={self._config.max_failed}: {reason}",
                remedy="Mend what the reason names, then run the same command again; trials that ended are kept.",
            )
        return ended

    def records(self) -> list[TrialRecord]:
        """Return every trial that ended, by number; those that are best by the goals are marked."""
        best = {trial.number for trial in self._study.best_trials} if self._has_finished() else set()
        found = [record for trial in self._study.get_trials(deepcopy=False) if (record := record_of(trial))]
        return [record.model_copy(update={"is_best": record.number in best}) for record in found]

    def importances(self) -> dict[str, float]:
        """Return how much each parameter mattered for the held-out loss, empty with too few finished trials (PED-ANOVA)."""
        from optuna.importance import get_param_importances

        finished = [record for record in self.records() if record.outcome == "finished"]
        losses = {record.measured.held_out_loss for record in finished if record.measured}
        if len(losses) < _FEWEST_FOR_IMPORTANCE:
            return {}
        place = self._config.goals.index("held_out_loss")
        with warnings.catch_warnings():
            # it says that low values of a target are taken for good ones, as they are
            warnings.filterwarnings("ignore", "PedAnovaImportanceEvaluator computes", UserWarning)
            return dict(get_param_importances(self._study, target=lambda trial: trial.values[place]))

    # --- under the study's lock

    def _is_enough(self) -> bool:
        left = self.left_s()
        enough = self.counted() + len(self._running()) >= self._config.trials
        return enough or (left is not None and left <= 0)

    def _retry_lost(self) -> None:
        for trial in self._running():
            if self._presence.lives(name := _process_of(trial)):
                continue
            tries = int(trial.user_attrs.get("tries", 0)) + 1
            if tries > _MAX_RETRIES:
                self._end(trial.number, "failed", f"its process died {tries} times", None, name)
                continue
            self._end(trial.number, "lost", "its process died", None, name)
            first = trial.user_attrs.get("retry_of", trial.number)
            self._study.enqueue_trial(dict(trial.params), user_attrs={"retry_of": first, "tries": tries})

    def _running(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        running: list[FrozenTrial] = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return running

    def _has_finished(self) -> bool:
        from optuna.trial import TrialState

        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))

    def _spent_s(self) -> float:
        ended = sum(record.spent_s for record in self.records())
        return ended + sum(_since_s(trial, self._seen(_process_of(trial))) for trial in self._running())

    def _seen(self, process: str) -> float | None:
        return time.time() if self._presence.lives(process) else self._presence.last_seen(process)

    def _end(
        self, number: int, outcome: Outcome, reason: str, values: list[float] | None, dead: str | None = None
    ) -> TrialRecord:
        from optuna.trial import TrialState

        # a diverged trial counts as a bad one, so that no more are drawn beside it; Optuna passes failed ones over
        states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.PRUNED}
        study_id = self._storage.get_study_id_from_name(NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        until = time.time() if dead is None else self._seen(dead)
        spent_s = _since_s(self._storage.get_trial(trial_id), until)
        told: dict[str, Any] = {"outcome": outcome, "reason": reason, "spent_s": spent_s}
        for name, value in told.items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        ended = record_of(self._study.tell(number, values, states.get(outcome, TrialState.FAIL)))
        if ended is None:
            raise AssertionError(f"trial {number} was told its end and has none")
        return ended


def _process_of(trial: FrozenTrial) -> str:
    """Return the process that took a trial; one that was killed while it drew left no name."""
    return str(trial.user_attrs.get("process", "nobody"))


def _since_s(trial: FrozenTrial, until: float | None) -> float:
    """Return the seconds from a trial's start until a time, 0 where one of them is not known."""
    if trial.datetime_start is None or until is None:
        return 0.0
    began: float = trial.datetime_start.timestamp()
    return max(0.0, until - began)
