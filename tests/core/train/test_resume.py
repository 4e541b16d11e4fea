"""Exact resume of the worker on a tiny real Llama in 4 bit: wherever it is stopped, losses and adapter end bit for bit the same.

The trainings run in forked children of one process (forks.py), so that torch is imported once.
"""

from __future__ import annotations

import importlib.util
import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("plan", Path(__file__).parent / "plan.py")
plan = importlib.util.module_from_spec(_spec)
sys.modules["plan"] = plan
_spec.loader.exec_module(plan)
STEPS, Trained, carry_out = plan.STEPS, plan.Trained, plan.carry_out

TOUCHES_OF_A_SAVE = 60
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "manifest.json",
    "optimizer.json",
    "optimizer.safetensors",
    "rng.json",
    "scheduler.json",
    "trainer_state.json",
)


def stopped(name: str, **fault: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return a run that a fault ends and one that goes on in its folder."""
    return [(name, {"fault": fault}), (name, {})]


FEW = {"rows": 24}  # 36 steps


@pytest.fixture(scope="module")
def trained(tiny_student, tmp_path_factory) -> Trained:
    drawn = random.Random(6)
    runs = [
        ("whole", {}),
        ("plain", {"action": "plain", "adapter_dtype": "float32"}),
        *stopped("killed", at="touch", number=drawn.randrange(2, 4) * TOUCHES_OF_A_SAVE, signal=signal.SIGKILL),
        *stopped("terminated", at="held-out loss, step", number=drawn.randrange(10, 18), signal=signal.SIGTERM),
        ("spoilt", {"fault": {"at": "train-step", "number": 21, "signal": signal.SIGKILL}}),
        ("spoilt", {"spoil": {"file": "optimizer.safetensors", "how": "flip", "place": 0.7, "bit": 3}}),
        ("nan", {"fault": {"at": "train-step", "number": 20, "nan_gradient": True}}),
        *stopped("full", at="train-step", number=20, file_size=20_000),
        ("masked", {"masked_row": 3}),
    ]
    return carry_out(tiny_student, tmp_path_factory.mktemp("resume"), [(name, {**FEW, **asked}) for name, asked in runs])


@pytest.fixture(scope="module")
def trained_long(tiny_student, tmp_path_factory) -> Trained:
    runs = [
        ("whole", {}),
        ("plain", {"action": "plain", "adapter_dtype": "float32"}),
        ("plain-bf16", {"action": "plain", "adapter_dtype": "bfloat16"}),
        ("frozen", {"action": "frozen"}),
    ]
    return carry_out(tiny_student, tmp_path_factory.mktemp("long"), runs)


def losses(trained: Trained, name: str) -> tuple[list[float], list[float]]:
    """Return the losses of the worker's steps and of plain TRL's."""
    steps = (trained.folder / "whole" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    (plain,) = trained.ended[name]
    return [json.loads(line)["loss"] for line in steps], plain["losses"]


def resumed(trained: Trained, name: str) -> int:
    """Return the step a stopped training went on from, after its end was compared with the undisturbed one's."""
    assert trained.outcome(name) == trained.outcome("whole")
    return trained.ended[name][-1]["resumed"]


def test_every_loss_equals_that_of_plain_trl(trained):
    ours, plain = losses(trained, "plain")
    assert ours == pytest.approx(plain, abs=1e-4)


@pytest.mark.full
def test_for_60_steps_every_loss_equals_that_of_plain_trl_with_its_adapter_in_the_same_type(trained_long):
    ours, plain = losses(trained_long, "plain")
    assert len(ours) == STEPS
    assert ours == pytest.approx(plain, abs=1e-4)
    assert ours != pytest.approx(losses(trained_long, "plain-bf16")[1], abs=1e-4)


@pytest.mark.full
def test_neither_an_evaluation_nor_a_save_changes_the_frozen_base_or_what_is_learned_through_it(trained_long):
    (ended,) = trained_long.ended["frozen"]
    for measured in ("losses", "gradients"):
        one, other = ended["kept"][measured]
        assert one == other
        one, other = ended["repacked"][measured]
        assert (one != other) == ended["repacks"]


def test_kill_9_while_a_checkpoint_is_written_costs_nothing_but_time(trained):
    assert trained.ended["killed"][0]["signal"] == signal.SIGKILL
    assert 0 < resumed(trained, "killed") < STEPS


def test_sigterm_in_an_evaluation_ends_the_worker_there_and_the_evaluation_is_done_again(trained):
    first = trained.ended["terminated"][0]
    assert first["error"] == "Terminated"
    assert [event["kind"] for event in first["heard"][-2:]] == ["progress", "leaving"]
    assert resumed(trained, "terminated") == 24
    evaluated = [
        [event["step"] for event in run["heard"] if event["kind"] == "evaluated"] for run in trained.ended["terminated"]
    ]
    assert evaluated == [[12], [24, 36]]


def test_a_flipped_bit_in_the_newest_checkpoint_makes_the_one_before_it_the_start(trained):
    assert resumed(trained, "spoilt") == 12
    (aside,) = (trained.folder / "spoilt" / "quarantine").iterdir()
    assert aside.name.startswith("train-step-00000016-")


def test_a_gradient_that_is_nan_ends_the_training_before_it_touches_a_weight(trained):
    (ended,) = trained.ended["nan"]
    assert ended["error"] == "TrainingDiverged"
    assert "step 21: grad_norm is no number" in ended["problem"]
    steps = (trained.folder / "nan" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    whole = (trained.folder / "whole" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    assert steps == whole[:20]


def test_a_full_disk_while_saving_is_told_and_the_checkpoint_before_it_is_whole(trained):
    first = trained.ended["full"][0]
    assert first["error"] == "DiskFull"
    assert "limit on file sizes" in first["problem"]
    assert resumed(trained, "full") == 16


def test_a_row_without_a_token_to_train_is_named_before_anything_is_trained(trained):
    (ended,) = trained.ended["masked"]
    assert ended["error"] == "DataError"
    assert "row train-3 has no token to train or score (1 such of 24 rows)" in ended["problem"]
    assert ended["heard"] == []


@pytest.mark.full
def test_the_best_checkpoint_outlives_newer_ones(trained_long):
    losses = [json.loads(line) for line in (trained_long.folder / "whole/held_out_losses.jsonl").read_text().splitlines()]
    best_at_the_last_save = min(losses[:-1], key=lambda record: record["held_out_loss"])["step"]
    there = {int(path.name[5:]) for path in (trained_long.folder / "whole" / "checkpoints").glob("step-*")}
    assert [record["step"] for record in losses] == [12, 24, 36, 48, 60]
    assert there == {best_at_the_last_save, 48, 56, 60}


SEEDS = range(20)


def twice_stopped(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Return a training that is stopped at two random points, in a save, a step or an evaluation, and then goes on."""
    drawn = random.Random(seed)
    number = drawn.choice([signal.SIGKILL, signal.SIGTERM])
    at, most = drawn.choice([("touch", 5 * TOUCHES_OF_A_SAVE), ("train-step", STEPS), ("held-out loss", 60)])
    faults = [{"at": at, "number": drawn.randrange(1, most), "signal": number} for _ in range(2)]
    return [(f"stopped-{seed}", {"fault": fault}) for fault in faults] + [(f"stopped-{seed}", {})]


def damaged(how: str) -> list[tuple[str, dict[str, Any]]]:
    drawn = random.Random(how)
    spoilt = {file: {"file": file, "how": how, "place": drawn.random(), "bit": drawn.randrange(8)} for file in FILES}
    return [(f"{how}-{file}", {"copy_of": "before", "spoil": how_spoilt}) for file, how_spoilt in spoilt.items()]


@pytest.fixture(scope="module")
def stopped_anywhere(tiny_student, tmp_path_factory) -> Trained:
    runs = [("whole", {}), ("before", {"fault": {"at": "train-step", "number": 30, "signal": signal.SIGKILL}})]
    runs += [run for seed in SEEDS for run in twice_stopped(seed)] + damaged("flip") + damaged("cut")
    return carry_out(tiny_student, tmp_path_factory.mktemp("anywhere"), runs)


@pytest.mark.full
@pytest.mark.parametrize("seed", SEEDS)
def test_wherever_it_is_stopped_it_ends_the_same(stopped_anywhere, seed):
    name = f"stopped-{seed}"
    first = stopped_anywhere.ended[name][0]
    assert first["signal"] == signal.SIGKILL or first.get("error") == "Terminated", first
    assert stopped_anywhere.outcome(name) == stopped_anywhere.outcome("whole")


@pytest.mark.full
@pytest.mark.parametrize("how", ["flip", "cut"])
@pytest.mark.parametrize("file", FILES)
def test_damage_in_any_file_of_a_checkpoint_is_seen_and_gone_back_over(stopped_anywhere, file, how):
    name = f"{how}-{file}"
    assert stopped_anywhere.ended[name][0]["resumed"] == 16
    assert stopped_anywhere.outcome(name) == stopped_anywhere.outcome("whole")
    (aside,) = (stopped_anywhere.folder / name / "quarantine").iterdir()
    assert aside.name.startswith("train-step-00000024-")
