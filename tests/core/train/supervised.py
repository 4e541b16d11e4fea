"""A supervisor whose workers are forked children, and the faults these meet: in one start of the worker, or in each.

A worker of several processes is started as the stage starts it, and meets no fault but its rows.

A part of forks.py. The supervisor's and the worker's own code runs; what no CPU can be asked for (memory of a GPU that runs
out, a GPU that fails) is raised as torch raises it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from core import attended_worker, worker_process
from core.attended_worker import Worker
from core.errors import EdgekilnError
from core.events import tee
from core.train import checkpoints, supervisor, worker
from core.train.decision import Decisions
from core.train.headroom import Room
from core.train.kept import Kept
from core.train.request import TrainRequest
from core.train.supervisor import Hands, Supervisor


class Forked:
    """A forked child with the part of Popen's interface that a supervisor uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 60) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked", timeout)
            time.sleep(0.01)
        return self.returncode


def launch(faults: dict[str, dict[str, Any]]) -> Any:
    """Return how a worker is forked; `faults` are by the number of its start, or for `each`."""

    def fork(folder: Path, lock: int, outlives: bool) -> Forked:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return Forked(pid)
        status = 1
        try:
            os.setsid()
            leave_behind(lock, folder / "worker.log")
            os.environ["EDGEKILN_PARENT"] = "" if outlives else str(parent)
            status = serve(folder, faults.get(folder.name) or faults.get("each") or {})
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)

    return fork


def leave_behind(lock: int, log: Path) -> None:
    """Give up what a started program would not have inherited: the supervisor's files, its locks above all."""
    for number in {int(name.name) for name in Path("/proc/self/fd").iterdir()} - {0, 1, 2, lock}:
        try:
            os.close(number)
        except OSError:  # it was that of the listing
            continue
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def serve(folder: Path, asked: dict[str, Any]) -> int:
    sys.argv = ["worker", str(folder)]
    fault = Fault(asked)

    def work(request: TrainRequest, place: Path, on_event: Any) -> Any:
        return worker.work(request, place, tee(on_event, fault.on_event))

    try:
        worker_process.main(TrainRequest, work)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


class Fault:
    """Strikes once the step `after` has ended, or in every step after it, in whichever start of the worker they fall."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        self._trainer: Any = None
        self._is_spoilt = False
        train, micro_batch = worker.ExactTrainer.train, worker.ExactTrainer.training_step

        def remember(trainer: Any, *args: Any, **named: Any) -> Any:
            self._trainer = trainer
            return train(trainer, *args, **named)

        def step(trainer: Any, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            self._in_step(trainer.state.global_step + 1, inputs)
            return micro_batch(trainer, model, inputs, *rest, **named)

        worker.ExactTrainer.train, worker.ExactTrainer.training_step = remember, step
        self._rooms = list[Room]()
        if "save_s" in asked:
            keep = worker.ExactTrainer._keep
            worker.ExactTrainer._keep = lambda *given: (time.sleep(asked["save_s"]), keep(*given))
        if "roomy" in asked:
            worker.Gauges.rooms = lambda _gauges: self._rooms

    def _in_step(self, number: int, inputs: Any) -> None:
        if number <= self._asked.get("after", 10**9):
            return
        match self._asked:
            case {"fits": rows} if len(inputs["input_ids"]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            case {"roomy": rows}:
                self._rooms = [Room("host", (1 << 40) if len(inputs["input_ids"]) <= rows else 1, 1 << 40, 1 << 30)]
            case {"gpu": said}:
                raise torch.AcceleratorError(said)
            case {"rate": factor, **others} if not (others.get("until_lowered") and self._is_lowered()):
                self._set_rate(factor)
            case {"nan_gradient": True} if not self._is_spoilt:
                self._is_spoilt = True
                weight = next(p for p in self._trainer.model.parameters() if p.requires_grad)
                weight.register_hook(lambda gradient: gradient * float("nan"))

    def on_event(self, event: Any) -> None:
        if event.kind == "memory-low" and self._asked.get("dies_of_it"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._asked.get("stopped_measuring") and getattr(event, "task", "") == "held-out loss, checkpoint":
            os.kill(os.getpid(), signal.SIGTERM)
        if event.kind != "train-step" or event.step < self._asked.get("after", 10**9):
            return
        match self._asked:
            case {"signal": number}:
                os.kill(os.getpid(), number)
            case {"hangs": True}:
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
                time.sleep(600)
            case {"slow_s": seconds}:
                time.sleep(seconds)

    def _is_lowered(self) -> bool:
        return self._trainer._around.request.course.learning_rate_factor < 1

    def _set_rate(self, factor: float) -> None:
        scheduler = self._trainer.lr_scheduler
        scheduler.base_lrs = [self._trainer.args.learning_rate * factor] * len(scheduler.base_lrs)
        for group, share in zip(self._trainer.optimizer.param_groups, scheduler.lr_lambdas, strict=True):
            group["lr"] = scheduler.base_lrs[0] * share(scheduler.last_epoch)


def wait_for_worker(run: dict[str, Any]) -> dict[str, Any]:
    """Wait until the worker that was left alone has ended and return what it wrote down."""
    folder = max((Path(run["folder"]) / "workers").glob("0*"))
    deadline = time.monotonic() + 60
    while Worker(folder, child=None).is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    failure = worker_process.failure_in(folder)
    return {"failure": type(failure).__name__, "problem": failure.problem if failure else None}


def supervise(run: dict[str, Any], request: TrainRequest) -> dict[str, Any]:
    folder = Path(run["folder"])
    heard: list[dict[str, Any]] = []

    def hear(event: Any) -> None:
        heard.append(event.model_dump(mode="json"))
        if event.kind == "train-step" and event.step >= run.get("supervisor_killed_after", 10**9):
            os.kill(os.getpid(), signal.SIGKILL)

    if "memory_kills" in run:  # nobody may have the kernel kill for want of memory to see what comes of it
        told = iter(run["memory_kills"])
        supervisor.faults.memory_kills = lambda: next(told)
    decisions = Decisions(folder / "decisions.jsonl", hear, folder / "quarantine")
    kept = Kept(Path(request.checkpoints), folder / "quarantine", request.training, decisions, hear)
    before = checkpoints.all_in(Path(request.checkpoints))
    several = attended_worker.module("core.train.launch.worker") if request.config.parallel.processes > 1 else None
    hands = Hands(folder / "workers", kept, decisions, hear, several or launch(run.get("faults", {})))
    ended: dict[str, Any] = {"heard": heard, "resumed": checkpoints.step_of(before[-1]) if before else None}
    try:
        result = Supervisor(request.model_copy(update={"resume_from": None}), hands).run()
    except EdgekilnError as error:
        return {"error": type(error).__name__, "problem": error.problem, **ended}
    return {"result": result.model_dump(mode="json"), **ended}
