"""Trainings that go wrong under a supervisor, on a tiny real Llama in 4 bit: what is decided, and how they end.

Each run's supervisor is a process, so is each start of its worker (supervised.py); faults strike in the worker.
"""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from core.attended_worker import attending
from core.config import TrainConfig
from core.errors import WorkspaceLocked
from core.events import ignore
from core.train.decision import Decisions
from core.train.kept import Kept
from core.train.request import TrainRequest
from core.train.supervisor import Hands, Supervisor

_spec = importlib.util.spec_from_file_location("plan", Path(__file__).parent / "plan.py")
plan = importlib.util.module_from_spec(_spec)
sys.modules["plan"] = plan
_spec.loader.exec_module(plan)
Trained, carry_out = plan.Trained, plan.carry_out

SHORT = {"learning_rate": 2e-3, "num_train_epochs": 2, "eval_steps": None, "detection": {"min_steps": 8}}
STEPS = 40
IMPATIENT = {"detection": {"stuck_min_s": 2.0, "first_step_s": 60.0}}
POISONED = {19: 13, 35: 16}  # the step of the first epoch each is met in


def supervised(config: dict[str, Any] | None = None, **asked: Any) -> dict[str, Any]:
    return {"action": "supervised", "config": {**SHORT, **(config or {})}, **asked}


def carried_out(student: Path, folder: Path, runs: list[tuple[str, dict[str, Any]]]) -> Trained:
    """Carry out runs of a student that knows most of what the rows are made of, made first."""
    learned = str(folder / "learned")
    asked = [(name, {"config": SHORT, **run, "student": learned}) for name, run in runs]
    return carry_out(student, folder, [("learn", {"action": "learn", "until_loss": 0.5, "learned": learned}), *asked])


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("whole", {}),
    ("poisoned", supervised(poisoned=[19])),
    ("glitch", supervised(faults={"0001": {"after": 20, "nan_gradient": True}})),
    ("taken-over", supervised(supervisor_killed_after=12)),
    ("taken-over", supervised()),
]


@pytest.fixture(scope="module")
def trained(tiny_student, tmp_path_factory) -> Trained:
    return carried_out(tiny_student, tmp_path_factory.mktemp("supervision"), RUNS)


def decisions(trained: Trained, name: str) -> list[dict[str, Any]]:
    path = trained.folder / name / "decisions.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def kinds(trained: Trained, name: str) -> list[str]:
    return [decision["decision"] for decision in decisions(trained, name)]


def steps(trained: Trained, name: str) -> list[dict[str, Any]]:
    lines = (trained.folder / name / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def loss_of(trained: Trained, name: str) -> float:
    return trained.ended[name][-1]["result"]["held_out_loss"]


def skipped_rows(trained: Trained, name: str) -> list[tuple[int, list[str]]]:
    skipped = [one for one in decisions(trained, name) if one["decision"] == "skipped"]
    return [(one["step"], one["left_out"]) for one in skipped]


def test_a_row_that_spoils_a_step_is_named_left_out_and_the_training_ends_as_well_as_with_a_sound_one(trained):
    assert kinds(trained, "poisoned") == ["halted", "skipped"]
    assert skipped_rows(trained, "poisoned") == [(13, ["train-19"])]
    assert steps(trained, "poisoned")[:12] == steps(trained, "whole")[:12]
    assert len(steps(trained, "poisoned")) == STEPS
    assert loss_of(trained, "poisoned") <= loss_of(trained, "whole") * 1.02


def test_a_glitch_that_a_replay_does_not_repeat_costs_nothing_but_time(trained):
    assert kinds(trained, "glitch") == ["halted", "transient"]
    assert decisions(trained, "glitch")[0]["to_step"] == 16
    assert trained.outcome("glitch") == trained.outcome("whole")


def test_a_worker_outlives_its_supervisor_and_another_takes_it_over(trained):
    first, second = trained.ended["taken-over"]
    assert first["signal"] == signal.SIGKILL
    assert kinds(trained, "taken-over") == ["taken-over"]
    assert len(list((trained.folder / "taken-over" / "workers").glob("0*"))) == 1
    heard = [event["step"] for event in second["heard"] if event["kind"] == "train-step"]
    assert heard == list(range(12, STEPS + 1))  # that of step 12 was heard, but not yet noted as heard
    assert trained.outcome("taken-over") == trained.outcome("whole")


def test_a_second_supervisor_of_the_same_training_is_refused_and_starts_nothing(tmp_path):
    def never(*_: Any) -> Any:
        raise AssertionError("a worker was started")

    workers = tmp_path / "workers"
    decisions = Decisions(tmp_path / "decisions.jsonl", ignore, tmp_path / "q")
    hands = Hands(workers, Kept(tmp_path / "c", tmp_path / "q", None, decisions, ignore), decisions, ignore, never)
    request = TrainRequest.model_construct(config=TrainConfig(student="tiny"))
    with (
        attending(workers / "supervisor"),
        pytest.raises(WorkspaceLocked, match="another process attends to this training"),
    ):
        Supervisor(request, hands).run()
    assert [path.name for path in workers.iterdir()] == ["supervisor"]
    assert not (tmp_path / "decisions.jsonl").exists()


def test_a_worker_left_over_by_another_version_is_not_taken_over_and_stops_nothing(tmp_path):
    class Begun(Exception):
        pass

    def begin(folder: Path, _lock: int, _outlives: bool) -> Any:
        raise Begun(folder.name)

    (tmp_path / "workers" / "0001").mkdir(parents=True)
    (tmp_path / "workers" / "0001" / "request.json").write_text('{"student_folder": "x", "news": 1}', encoding="utf-8")
    decisions = Decisions(tmp_path / "decisions.jsonl", ignore, tmp_path / "q")
    kept = Kept(tmp_path / "c", tmp_path / "q", None, decisions, ignore)
    request = TrainRequest.model_construct(config=TrainConfig(student="tiny"))
    with pytest.raises(Begun, match="0002"):
        Supervisor(request, Hands(tmp_path / "workers", kept, decisions, ignore, begin)).run()


ONLY_HELD_OUT = {"detection": {"spike_sigmas": 1e6, "run_sigmas": 1e6}, "eval_steps": 4, "checkpoint_steps": 4}
ONLY_TELLS = {"supervision": {"acts": False}}
NO_WAY_BACK = {"supervision": {"max_rollbacks": 0}}
WIDE = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
LONG_RUNS: list[tuple[str, dict[str, Any]]] = [
    ("whole", {}),
    ("watched", supervised()),
    ("poisoned", supervised(poisoned=list(POISONED))),
    ("poison-told", supervised(ONLY_TELLS, poisoned=list(POISONED))),
    ("killed", supervised(faults={"0001": {"after": 21, "signal": signal.SIGKILL}})),
    ("hung", supervised(IMPATIENT, faults={"0001": {"after": 21, "hangs": True}})),
    ("slow-to-save", supervised(IMPATIENT, faults={"each": {"after": 0, "save_s": 3.0}})),
    ("memory", supervised(WIDE, faults={"each": {"after": 0, "fits": 1}})),
    ("cramped", supervised(WIDE, faults={"each": {"after": 0, "roomy": 1}})),
    ("cramped-and-killed", supervised(WIDE, faults={"0001": {"after": 0, "roomy": 1, "dies_of_it": True}})),
    (
        "killed-for-memory",
        supervised(WIDE, faults={"0001": {"after": 4, "signal": signal.SIGKILL}}, memory_kills=[7, 7, 8, 8]),
    ),
    ("cramped-for-good", supervised(WIDE, faults={"each": {"after": 0, "roomy": 0}})),
    ("gpu", supervised(faults={"each": {"after": 20, "gpu": "CUDA error: uncorrectable ECC error encountered"}})),
    ("rate", supervised({"supervision": {"max_rollbacks": 1}}, faults={"each": {"after": 18, "rate": 100.0}})),
    ("given-up", supervised(NO_WAY_BACK, faults={"each": {"after": 18, "rate": 100.0, "stopped_measuring": True}})),
    ("given-up", supervised(NO_WAY_BACK, faults={"each": {"after": 18, "rate": 100.0}})),
    ("lowered", supervised(faults={"each": {"after": 18, "rate": 100.0, "until_lowered": True}})),
    ("nan", supervised({"supervision": {"max_rollbacks": 2}}, faults={"each": {"after": 20, "nan_gradient": True}})),
    ("diverging", supervised(ONLY_HELD_OUT, faults={"0001": {"after": 18, "rate": 30.0}})),
    ("dies", supervised(faults={"each": {"after": 21, "signal": signal.SIGKILL}})),
    (
        "orphaned",
        supervised(
            {"supervision": {"orphan_s": 0.5}}, supervisor_killed_after=12, faults={"0001": {"after": 1, "slow_s": 0.2}}
        ),
    ),
    ("orphaned", {"action": "wait"}),
    ("orphaned", supervised()),
    ("told", supervised(ONLY_TELLS, faults={"each": {"after": 18, "rate": 100.0}})),
]


@pytest.fixture(scope="module")
def trained_long(tiny_student, tmp_path_factory) -> Trained:
    return carried_out(tiny_student, tmp_path_factory.mktemp("supervision-long"), LONG_RUNS)


@pytest.mark.full
def test_a_supervisor_changes_no_byte_of_a_training_that_goes_well(trained_long):
    assert trained_long.outcome("watched") == trained_long.outcome("whole")
    assert decisions(trained_long, "watched") == []


@pytest.mark.full
def test_every_poisoned_row_is_left_out_at_its_step_and_without_that_the_training_ends_worse(trained_long):
    assert skipped_rows(trained_long, "poisoned") == [(step, [f"train-{row}"]) for row, step in POISONED.items()]
    sound = loss_of(trained_long, "whole")
    assert loss_of(trained_long, "poisoned") <= sound * 1.02
    assert loss_of(trained_long, "poison-told") - sound > 3 * (loss_of(trained_long, "poisoned") - sound)


@pytest.mark.full
def test_a_killed_worker_starts_again_from_the_last_verified_checkpoint(trained_long):
    (decision,) = decisions(trained_long, "killed")
    assert (decision["decision"], decision["to_step"]) == ("restarted", 16)
    assert "the worker ended with signal SIGKILL" in decision["reason"]
    assert trained_long.outcome("killed") == trained_long.outcome("whole")


@pytest.mark.full
def test_a_worker_that_hangs_is_killed_and_starts_again(trained_long):
    (decision,) = decisions(trained_long, "hung")
    assert (decision["decision"], decision["step"], decision["to_step"]) == ("restarted", 21, 16)
    assert "silence_s lasts too long" in decision["reason"]
    assert trained_long.outcome("hung") == trained_long.outcome("whole")


@pytest.mark.full
def test_a_worker_whose_saves_take_longer_than_its_silence_may_last_is_let_be(trained_long):
    assert decisions(trained_long, "slow-to-save") == []
    assert trained_long.outcome("slow-to-save") == trained_long.outcome("whole")


@pytest.mark.full
def test_when_memory_runs_out_smaller_batches_make_the_same_steps(trained_long):
    (decision,) = decisions(trained_long, "memory")
    assert (decision["decision"], decision["micro_batch"], decision["to_step"]) == ("shrunk", 1, 0)
    assert trained_long.outcome("memory") == trained_long.outcome("whole")


@pytest.mark.full
def test_when_memory_runs_low_the_worker_ends_in_time_and_smaller_batches_go_on(trained_long):
    (decision,) = decisions(trained_long, "cramped")
    assert (decision["decision"], decision["micro_batch"]) == ("shrunk", 1)
    assert decision["to_step"] >= 1
    assert "MiB of memory left (host)" in decision["reason"]
    assert len(steps(trained_long, "cramped")) == STEPS
    assert loss_of(trained_long, "cramped") == pytest.approx(loss_of(trained_long, "whole"), rel=1e-2)
    heard = [event["kind"] for event in trained_long.ended["cramped"][-1]["heard"]]
    assert "memory-low" in heard
    assert "leaving" not in heard


@pytest.mark.full
def test_a_worker_killed_while_memory_was_low_starts_again_with_smaller_batches(trained_long):
    (decision,) = decisions(trained_long, "cramped-and-killed")
    assert (decision["decision"], decision["micro_batch"], decision["to_step"]) == ("shrunk", 1, 0)
    assert "signal SIGKILL; before that step 1: 0 MiB < " in decision["reason"]
    assert trained_long.outcome("cramped-and-killed") == trained_long.outcome("whole")


@pytest.mark.full
def test_a_worker_that_the_kernel_killed_for_want_of_memory_starts_again_with_smaller_batches(trained_long):
    (decision,) = decisions(trained_long, "killed-for-memory")
    assert (decision["decision"], decision["micro_batch"], decision["to_step"]) == ("shrunk", 1, 0)
    assert decision["reason"].endswith("signal SIGKILL; the kernel has killed for want of memory since it began")
    assert trained_long.outcome("killed-for-memory") == trained_long.outcome("whole")


@pytest.mark.full
def test_memory_that_stays_low_with_single_rows_is_told_and_the_training_goes_on(trained_long):
    assert kinds(trained_long, "cramped-for-good") == ["shrunk"]
    assert loss_of(trained_long, "cramped-for-good") == pytest.approx(loss_of(trained_long, "whole"), rel=1e-2)


@pytest.mark.full
def test_a_gpu_that_fails_ends_the_training_with_its_cause_and_the_checkpoint_that_is_kept(trained_long):
    (ended,) = trained_long.ended["gpu"]
    assert ended["error"] == "GpuFault"
    assert "uncorrectable ECC error" in ended["problem"]
    assert "the verified checkpoint of step 16 is kept" in ended["problem"]
    assert kinds(trained_long, "gpu") == ["gave-up"]


@pytest.mark.full
def test_a_learning_rate_far_too_high_goes_back_to_sound_weights_with_half_of_it(trained_long):
    assert kinds(trained_long, "lowered") == ["halted", "rolled-back"]
    back = decisions(trained_long, "lowered")[1]
    assert "0 of 2 rows stand out from others" in back["reason"]
    assert (back["to_step"], back["learning_rate_factor"], back.get("left_out")) == (16, 0.5, None)
    rates = {step["step"]: step["learning_rate"] for step in steps(trained_long, "lowered")}
    usual = {step["step"]: step["learning_rate"] for step in steps(trained_long, "whole")}
    assert all(rates[n] == usual[n] for n in range(1, 17))
    assert all(rates[n] == usual[n] / 2 for n in range(17, STEPS + 1))
    assert loss_of(trained_long, "lowered") <= loss_of(trained_long, "whole") * 1.1


@pytest.mark.full
def test_a_rate_that_stays_far_too_high_ends_it_with_the_best_checkpoint_and_what_was_tried(trained_long):
    (ended,) = trained_long.ended["rate"]
    assert ended["error"] == "TrainingDiverged"
    assert kinds(trained_long, "rate") == ["halted", "rolled-back", "halted", "gave-up"]
    assert "tried: 1 times back to an earlier checkpoint, learning rate x 0.5" in ended["problem"]
    kept = re.search(r"the verified checkpoint of step (\d+) is kept, held-out loss (\S+)$", ended["problem"])
    assert kept is not None
    assert (trained_long.folder / "rate" / "checkpoints" / f"step-{int(kept[1]):08d}").is_dir()
    assert 0.3 < float(kept[2]) < 0.6  # the base's is 0.45


@pytest.mark.full
def test_a_training_stopped_while_it_is_given_up_ends_as_stopped_and_is_given_up_by_the_next(trained_long):
    first, second = trained_long.ended["given-up"]
    assert first["error"] == "Terminated"
    assert second["error"] == "TrainingDiverged"
    assert "could not be measured" not in second["problem"]
    assert kinds(trained_long, "given-up") == ["halted", "resumed", "gave-up"]


@pytest.mark.full
def test_a_gradient_that_stays_nan_ends_it_after_as_many_times_back_as_allowed(trained_long):
    (ended,) = trained_long.ended["nan"]
    assert ended["error"] == "TrainingDiverged"
    assert "step 21: grad_norm is no number" in ended["problem"]
    back = [one for one in decisions(trained_long, "nan") if one["decision"] == "rolled-back"]
    assert [(one["to_step"], one["learning_rate_factor"]) for one in back] == [(16, 0.5), (16, 0.25)]
    whole = steps(trained_long, "whole")[:16]
    assert steps(trained_long, "nan")[:16] == whole


@pytest.mark.full
def test_a_held_out_loss_that_rises_goes_back_to_the_best_checkpoint(trained_long):
    back = next(one for one in decisions(trained_long, "diverging") if one["decision"] == "rolled-back")
    assert back["alarm"]["kind"] == "diverging"
    evaluated = [event for event in trained_long.ended["diverging"][0]["heard"] if event["kind"] == "evaluated"]
    before = {event["step"]: event["held_out_loss"] for event in evaluated[: back["step"] // 4]}
    assert (back["to_step"], back["learning_rate_factor"]) == (min(before, key=before.__getitem__), 0.5)
    assert loss_of(trained_long, "diverging") <= back["alarm"]["baseline"]


@pytest.mark.full
def test_a_worker_that_dies_at_the_same_place_every_time_is_not_started_for_ever(trained_long):
    (ended,) = trained_long.ended["dies"]
    assert ended["error"] == "ProcessFailed"
    assert kinds(trained_long, "dies") == ["restarted"] * 3
    assert "restarted 3 times from step 16, limit 3 (train.supervision.max_restarts)" in ended["problem"]


@pytest.mark.full
def test_a_worker_nobody_takes_over_saves_and_ends_and_the_next_supervisor_goes_on_there(trained_long):
    first, waited, last = trained_long.ended["orphaned"]
    assert first["signal"] == signal.SIGKILL
    assert waited["failure"] == "Terminated"
    assert "no supervisor for" in waited["problem"]
    assert last["resumed"] not in (0, 8, 16, 24, None)  # a checkpoint was taken where it ended
    assert trained_long.outcome("orphaned") == trained_long.outcome("whole")


@pytest.mark.full
def test_one_that_only_tells_goes_on_and_decides_nothing(trained_long):
    (ended,) = trained_long.ended["told"]
    assert "result" in ended
    assert decisions(trained_long, "told") == []
    assert [event for event in ended["heard"] if event["kind"] == "note" and "is a spike" in event["text"]]
