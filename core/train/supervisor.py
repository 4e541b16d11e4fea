"""Watches a training, decides what is done when it goes wrong, and does it. Which rung is next is ladder.py's to say."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core import attended_worker
from core.attended_worker import Launch, Worker
from core.errors import EdgekilnError, Evicted, GpuFault, OutOfMemory, ProcessFailed, Terminated, TrainingDiverged
from core.events import CheckpointSaved, Event, Leaving, MemoryLow, OnEvent, Progress, TrainStep
from core.files import read_json_lines
from core.sinks import describe
from core.train import checkpoints, faults, halted, ladder, retention
from core.train.alarm import Alarm
from core.train.attribution import Cause, cause_of, usual_loss
from core.train.decision import DecisionKind, Decisions
from core.train.detection import StepDetector, StuckDetector
from core.train.halted import Halt, Halted
from core.train.kept import Kept
from core.train.ladder import Move
from core.train.request import SAVING, TrainRequest, TrainResult
from core.worker_process import failure_in

GRACE_S = 25.0  # the worker saves before it ends; who stops us kills 30 s after a notice (GCP, Kubernetes)
_NAMES: dict[str, DecisionKind] = {"replay": "halted", "skip": "skipped", "go-back": "rolled-back"}
_AGAIN = "Read its worker.log, mend what it names, then run the same command again; it goes on from its checkpoint."


class WorkerLost(Exception):
    """The worker was killed or hung."""


class MemoryShort(Exception):
    """The worker's memory runs low, and smaller micro-batches are to be had."""


@dataclass(frozen=True)
class Hands:
    """What a supervisor works with; `workers` is the folder with a folder for every start of the worker."""

    workers: Path
    kept: Kept
    decisions: Decisions
    on_event: OnEvent
    launch: Launch


class Supervisor:
    """Has a worker carry out a training; a new one goes on where one that died left it, with the worker that still runs.

    `request` is the training as configured: what was changed about it, and where it goes on from, is filled in here.
    """

    def __init__(self, request: TrainRequest, hands: Hands) -> None:
        self._request = request
        self._config = request.config
        self._hands = hands
        self._decisions = hands.decisions
        self._lock = hands.workers / "supervisor"
        self._began_s = time.monotonic()
        self._deadline_s = self._began_s + self._config.timeout_s
        self._step = 0
        self._low: MemoryLow | None = None  # what the worker that runs has told last of its memory
        self._memory_kills = faults.memory_kills()  # when it began

    def run(self) -> TrainResult:
        """Train to the end; TrainingDiverged, OutOfMemory, GpuFault or ProcessFailed say why that could not be done."""
        with attended_worker.attending(self._lock):
            worker = self._left_over() or self._begin(self._resume_point())
            while True:
                try:
                    return self._attend(worker)
                except Halt as halt:
                    start = self._after_halt(halt.halted)
                except (OutOfMemory, MemoryShort) as error:
                    start = self._after_shrinking(error)
                except WorkerLost as error:
                    start = self._after_restart(error)
                except GpuFault as error:
                    raise self._with_what_is_kept(error) from error
                worker = self._begin(start)

    # --- a worker: begun, taken over, attended to

    def _begin(self, start: Path | None, *, measures: bool = False) -> Worker:
        standing = self._decisions.standing
        request = self._request.model_copy(
            update={
                "resume_from": str(start) if start else None,
                "course": standing.course,
                "suspect": standing.suspect.step if standing.suspect else None,
                "measures": measures,
                "supervisor": str(self._lock),
                "decisions": str(self._decisions.path),
                "rollbacks": standing.rollbacks,
            }
        )
        self._low, self._memory_kills = None, faults.memory_kills()
        folder = self._hands.workers / f"{len(self._folders()) + 1:04d}"
        outlives = self._config.supervision.orphan_s > 0
        return attended_worker.begin(folder, request, self._hands.launch, outlives=outlives)

    def _folders(self) -> list[Path]:
        return sorted(path for path in self._hands.workers.iterdir() if path.is_dir())

    def _left_over(self) -> Worker | None:
        """Return the worker of a supervisor that died, if it runs or has ended with something to say."""
        folders = self._folders()
        if not folders or not (folders[-1] / "request.json").exists():
            return None
        worker = Worker(folders[-1], child=None)
        if not _is_ours(worker):
            worker.end(GRACE_S)
            return None
        if worker.is_alive():
            steps = self._steps()
            self._decisions.add("taken-over", steps[-1]["step"] if steps else 0, reason="its supervisor had died")
        elif not (halted.is_there(worker.folder) or (worker.folder / "result.json").exists()):
            return None
        return worker

    def _attend(self, worker: Worker) -> TrainResult:
        """Follow a worker to its end and return its result, or raise what it ended with."""
        stuck = StuckDetector(self._config.detection, time.monotonic())

        def hear(event: Event) -> None:
            self._hear(event, stuck)

        def tick() -> None:
            self._tick(worker, stuck)

        attended_worker.follow(worker, attended_worker.events_of(worker.folder, hear), tick, grace_s=GRACE_S)
        result = worker.folder / "result.json"
        if result.exists():
            return TrainResult.model_validate_json(result.read_bytes())
        if (found := halted.taken(worker.folder)) is not None:
            raise Halt(found)
        if (failure := failure_in(worker.folder)) is not None:
            raise failure
        if worker.was_killed():
            raise WorkerLost(worker.how_it_ended())
        raise ProcessFailed(worker.how_it_ended(), remedy=_AGAIN)

    def _hear(self, event: Event, stuck: StuckDetector) -> None:
        if isinstance(event, Leaving) and self._is_short():
            return  # it ends to be made smaller; nothing is left
        self._hands.on_event(event)
        if isinstance(event, MemoryLow):
            self._low = event
        if not isinstance(event, TrainStep):
            _note_life(event, stuck)
            return
        self._step = event.step
        stuck.stepped(event.step, time.monotonic())
        suspect = self._decisions.standing.suspect
        if suspect is not None and event.step >= suspect.step:
            self._decisions.add("transient", suspect.step, reason=f"{suspect.text}; it was not so again when replayed")

    def _tick(self, worker: Worker, stuck: StuckDetector) -> None:
        now_s = time.monotonic()
        if now_s > self._deadline_s:
            raise ProcessFailed(
                f"the training ran > {self._config.timeout_s:g} s (train.timeout_s) and was stopped",
                remedy="Raise train.timeout_s if the machine is slow, then run the same command again; it goes on.",
            )
        if self._low is not None and self._is_short():
            raise MemoryShort(describe(self._low))
        if (alarm := stuck.check(now_s)) is not None:
            worker.end(0)  # it hears nothing
            raise WorkerLost(alarm.text)

    # --- where to go on from

    def _resume_point(self) -> Path | None:
        """Return where a new process goes on from."""
        start = self._newest()
        if start is not None:
            self._hands.kept.tell_resumed(start)
        return start

    def _newest(self) -> Path | None:
        suspect = self._decisions.standing.suspect
        return self._hands.kept.newest(None if suspect is None else ladder.replay_bound(suspect))

    def _after_halt(self, found: Halted) -> Path | None:
        standing = self._decisions.standing
        cause = self._cause(found, standing.suspect)
        move = ladder.move_for(found.alarm, cause, standing, self._config.supervision)
        if move.kind == "give-up":
            raise self._given_up(found.alarm, move)
        kept = self._hands.kept
        start = kept.best(found.alarm) if move.bound is None else kept.newest(move.bound)
        step = checkpoints.step_of(start) if start else 0
        if move.kind == "go-back":
            kept.back_to(step)  # before it is written down: a kill in between only has the step come again
        facts: dict[str, Any] = {"to_step": step, "alarm": found.alarm, "reason": move.reason, **move.changes}
        self._decisions.add(_NAMES[move.kind], found.alarm.step, **facts)
        return start

    def _cause(self, found: Halted, suspect: Alarm | None) -> Cause | None:
        """Say what a replayed step is put down to, None for a step that was not replayed."""
        if found.evidence is None:
            if suspect is None:
                return None
            return Cause(kind="rate", text=f"on the way to step {suspect.step}, which was being replayed")
        detector = StepDetector(self._config.detection)
        for record in self._steps():
            detector.step(record["step"], record["loss"], None)
        others = usual_loss(found.evidence.others)
        deviations = None if others is None else detector.loss_deviations(others)
        return cause_of(found.evidence, deviations, self._config.detection, found.alarm.kind)

    def _steps(self) -> list[dict[str, Any]]:
        path = Path(self._request.steps)
        return list(read_json_lines(path)) if path.exists() else []

    def _is_short(self) -> bool:
        asked = self._low is not None and self._low.action == "shrink-asked"
        return asked and self._decisions.standing.course.smaller(self._config) is not None

    def _after_restart(self, error: WorkerLost) -> Path | None:
        if (short := self._want_of_memory()) is not None:
            with suppress(MemoryShort):
                return self._after_shrinking(MemoryShort(f"{error}; {short}"))
        start = self._newest()
        step = checkpoints.step_of(start) if start else 0
        count, limit = self._decisions.standing.restarts_in_a_row(step), self._config.supervision.max_restarts
        if count >= limit:
            raise ProcessFailed(
                f"{error}; restarted {count} times from step {step}, limit {limit} (train.supervision.max_restarts)",
                remedy=_AGAIN,
            ) from error
        self._decisions.add("restarted", self._step, to_step=step, reason=str(error))
        return start

    def _want_of_memory(self) -> str | None:
        """Say why a lost worker may have been killed for want of memory: the kernel does so without a word to it."""
        if self._low is not None and self._low.step >= self._step - 1:
            return f"before that {describe(self._low)}"
        kills = faults.memory_kills()
        if kills is None or self._memory_kills is None or kills <= self._memory_kills:
            return None
        return "the kernel has killed for want of memory since it began"

    def _after_shrinking(self, error: OutOfMemory | MemoryShort) -> Path | None:
        """Return where smaller micro-batches go on from; raise the error again where there are none."""
        smaller = self._decisions.standing.course.smaller(self._config)
        if smaller is None:
            raise error
        start = self._newest()
        step = checkpoints.step_of(start) if start else 0
        reason = error.problem if isinstance(error, OutOfMemory) else str(error)
        self._decisions.add("shrunk", self._step, to_step=step, micro_batch=smaller, reason=reason)
        return start

    # --- the end of what can be done

    def _with_what_is_kept(self, error: GpuFault) -> GpuFault:
        start = self._hands.kept.newest(None)
        kept = (
            f"the verified checkpoint of step {checkpoints.step_of(start)} is kept" if start else "no checkpoint was taken"
        )
        cause = "; ".join(part for part in (error.problem, faults.xid(self._began_s), kept) if part)
        self._decisions.add("gave-up", self._step, reason=cause)
        return GpuFault(cause, remedy=error.remedy)

    def _given_up(self, alarm: Alarm, move: Move) -> TrainingDiverged:
        """Return the error that names what was tried and the best checkpoint, with its held-out loss."""
        kept = self._hands.kept
        best = kept.best(None) or kept.newest(max(0, ladder.replay_bound(alarm) - 1))
        told = "no checkpoint was taken before it"
        if best is not None:
            step = checkpoints.step_of(best)
            told = f"the verified checkpoint of step {step} is kept, {self._held_out_loss(best)}"
        self._decisions.add("gave-up", alarm.step, alarm=alarm, reason=f"{move.reason}; {told}")
        return TrainingDiverged(
            f"{move.reason}; {told}",
            remedy="Lower train.learning_rate or look at the rows named; raise train.supervision.max_rollbacks to go on.",
        )

    def _held_out_loss(self, checkpoint: Path) -> str:
        loss = retention.scores(checkpoint.parent).get(checkpoints.step_of(checkpoint))
        if loss is None:
            try:
                loss = self._attend(self._begin(checkpoint, measures=True)).held_out_loss
            except (Evicted, Terminated):
                raise  # the step that stood out is replayed on the next machine, and given up there
            except (EdgekilnError, WorkerLost) as error:
                return f"its held-out loss could not be measured: {error}"
        return f"held-out loss {loss:.4g}"


def _note_life(event: Event, stuck: StuckDetector) -> None:
    now_s = time.monotonic()
    if isinstance(event, Progress) and event.task == SAVING:
        stuck.saving(now_s)
    elif isinstance(event, CheckpointSaved):
        stuck.saved(now_s)
    else:
        stuck.alive(now_s)


def _is_ours(worker: Worker) -> bool:
    """Say whether a worker that was left over trains, and was asked to in words of this version."""
    try:
        return not TrainRequest.model_validate_json((worker.folder / "request.json").read_bytes()).measures
    except ValidationError:
        return False
