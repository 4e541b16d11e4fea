"""Two processes on one CPU, started by accelerate, that train what one process trains; killed, stopped, and gone on from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from core.contract import Stage
from core.errors import ToolMissing
from core.nouns import Adapter
from core.train.decision import read_decisions
from core.workspace import open_workspace
from tests.core.train import drive
from tests.core.train.plan import carry_out

pytestmark = pytest.mark.full
REPOSITORY = Path(__file__).parents[3]
ONE = {
    "student": "tiny",
    "device": "cpu",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "learning_rate": 5e-3,
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0},
    "checkpoint_steps": 5,
    "eval_steps": 10,
    "seed": 11,
}
TWO = {**ONE, "gradient_accumulation_steps": 1, "parallel": {"processes": 2}}
SHORT = {"learning_rate": 2e-3, "num_train_epochs": 2, "eval_steps": None, "detection": {"min_steps": 8}}
WEIGHTS = "adapter/adapter_model.safetensors"
STEPS = 20  # 40 rows, one epoch, two rows a step


class Case:
    """A training in a folder of its own."""

    def __init__(self, folder: Path, student: Path, config: dict) -> None:
        self.folder = folder
        beside = folder / "profile"
        (beside / "models").mkdir(parents=True, exist_ok=True)
        about = {"roles": ["student"], "parameters": 100_000, "hidden_size": 64, "licence": "MIT", "memory_mib": 1}
        card = {**about, "source": {"kind": "local", "path": str(student)}, "chat_template": "chatml"}
        (beside / "models" / "tiny.yaml").write_text(json.dumps(card), encoding="utf-8")
        places = {"workspace": str(folder / "workspace"), "events": str(folder / "events.jsonl"), "beside": str(beside)}
        self.asked = {**places, "rows": 40, "config": config}

    def finish(self) -> Adapter:
        return drive.run(self.asked)

    def start(self) -> subprocess.Popen[bytes]:
        path = self.folder / "case.json"
        path.write_text(json.dumps(self.asked), encoding="utf-8")
        argv = [sys.executable, str(Path(drive.__file__)), str(path)]
        return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stderr=subprocess.DEVNULL)

    def events(self, kind: str) -> list[dict]:
        path = self.folder / "events.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def file(self, adapter: Adapter, name: str) -> Path:
        return open_workspace(self.folder / "workspace").folder(Stage.TRAIN, adapter.artifact_id) / name

    def steps(self, adapter: Adapter) -> list[dict]:
        return [json.loads(line) for line in self.file(adapter, "steps.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tiny_student, tmp_path_factory) -> tuple[Case, Adapter]:
    case = Case(tmp_path_factory.mktemp("two"), tiny_student, TWO)
    return case, case.finish()


def test_two_processes_learn_what_one_learns_with_twice_the_accumulation(undisturbed, tiny_student, tmp_path):
    case, two = undisturbed
    alone = Case(tmp_path, tiny_student, ONE)
    one = alone.finish()
    pairs = list(zip(case.steps(two), alone.steps(one), strict=True))
    assert len(pairs) == STEPS
    assert max(abs(ours["loss"] - theirs["loss"]) for ours, theirs in pairs) <= 1e-4
    assert all(ours["trained_tokens"] == theirs["trained_tokens"] for ours, theirs in pairs)
    assert two.trained_tokens == one.trained_tokens
    assert two.base_held_out_loss == pytest.approx(one.base_held_out_loss, abs=1e-5)
    assert two.held_out_loss == pytest.approx(one.held_out_loss, abs=1e-3)
    ours, theirs = (load_file(each) for each in (case.file(two, WEIGHTS), alone.file(one, WEIGHTS)))
    assert ours.keys() == theirs.keys()
    assert max(float(abs(ours[name] - theirs[name]).max()) for name in ours) < 1e-2


def test_only_the_first_of_them_tells_and_writes(undisturbed):
    case, adapter = undisturbed
    assert [event["step"] for event in case.events("train-step")] == list(range(1, STEPS + 1))
    assert [event["step"] for event in case.events("checkpoint-saved")] == [5, 10, 15, 20]
    lines = [json.loads(line) for line in case.file(adapter, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    (start,) = [line for line in lines if line["kind"] == "start"]
    assert (start["processes"], start["steps"]) == (2, STEPS)
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, STEPS + 1))


def wait_until(happened: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert child.poll() is None, "the training ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def of(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in a folder."""
    inside = str(folder / "workspace")
    everyone = psutil.process_iter(["cmdline"])
    return [process for process in everyone if any(inside in word for word in process.info["cmdline"] or [])]


def test_killed_with_everything_it_started_it_goes_on_bit_for_bit(undisturbed, tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, TWO)
    with case.start() as child:
        wait_until(lambda: len(case.events("train-step")) >= 12, child)
        processes = of(tmp_path)
        assert len(processes) == 3  # accelerate and the two
        child.kill()
        child.wait()
        for process in processes:  # they outlive their supervisor for a while
            process.kill()
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert not alive
    adapter = case.finish()
    whole, expected = undisturbed
    assert adapter.resumed_from_steps[0] in {10, 15}
    assert case.steps(adapter) == whole.steps(expected)
    assert adapter.content_digest == expected.content_digest


def test_when_one_of_them_is_killed_all_start_again_from_the_newest_checkpoint(undisturbed, tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, TWO)
    with case.start() as child:
        wait_until(lambda: len(case.events("train-step")) >= 7, child)
        second = next(process for process in of(tmp_path) if process.environ().get("RANK") == "1")
        second.kill()
        assert child.wait(300) == 0
    (decision,) = case.events("training-decided")
    assert (decision["decision"], decision["to_step"] >= 5) == ("restarted", True)
    assert "signal SIGKILL" in decision["text"]
    assert case.finish().content_digest == undisturbed[1].content_digest


def test_told_to_stop_they_save_together_and_stop(undisturbed, tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, {**TWO, "checkpoint_steps": 100})
    with case.start() as child:
        wait_until(lambda: len(case.events("train-step")) >= 7, child)
        (launcher,) = [process for process in of(tmp_path) if "core.train.launch.worker" in process.info["cmdline"]]
        launcher.send_signal(signal.SIGTERM)
        assert child.wait(120) != 0
    stopped = case.events("checkpoint-saved")[-1]["step"]
    assert stopped >= 7
    adapter = case.finish()
    assert adapter.resumed_from_steps == (stopped,)
    assert adapter.content_digest == undisturbed[1].content_digest


def test_a_failure_of_any_process_is_the_trainings_own(tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, {**TWO, "optim": "paged_adamw_8bit"})
    with pytest.raises(ToolMissing, match="the training runs on the CPU"):
        case.finish()


def test_a_poisoned_row_is_named_whichever_process_met_it(tiny_student, tmp_path):
    learned = str(tmp_path / "learned")
    config = {**SHORT, "gradient_accumulation_steps": 1, "parallel": {"processes": 2}}
    spoilt = {"action": "supervised", "config": config, "poisoned": [19, 35], "student": learned}
    teach = {"action": "learn", "until_loss": 0.5, "learned": learned}
    trained = carry_out(tiny_student, tmp_path, [("learn", teach), ("poisoned", spoilt)])
    decided = read_decisions(tmp_path / "poisoned" / "decisions.jsonl")
    assert [one.decision for one in decided] == ["halted", "skipped"] * 2
    # of step 13 the second process has row 19, of step 16 the first has row 35
    assert [(one.step, one.left_out) for one in decided[1::2]] == [(13, ("train-19",)), (16, ("train-35",))]
    assert all("1 of 2 rows stand out" in one.reason for one in decided[1::2])
    assert trained.ended["poisoned"][0]["result"]["steps"] == 40


def test_a_student_in_shards_is_saved_whole_and_goes_on_bit_for_bit(tiny_student, tmp_path):
    program = str(Path(__file__).parent / "sharded.py")
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", program]
    folder = tmp_path / "kept"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*argv, str(tiny_student), str(folder)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    told = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    assert told["in_shards"] == [True, False]
    assert told["resumed"] == told["sharded"][3:]
    assert told["sharded"] == pytest.approx(told["alone"], abs=1e-4)
    assert told["alone"][-1] < told["alone"][0]
    assert (told["agreed"], told["summed"]) == ([True, False], [3, 10])


def test_shards_are_refused_where_there_is_no_gpu(tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, {**TWO, "parallel": {"processes": 2, "strategy": "fsdp"}})
    with pytest.raises(ToolMissing, match="strategy is fsdp, which needs GPUs"):
        case.finish()
