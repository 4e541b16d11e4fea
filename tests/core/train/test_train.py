"""The train stage on a tiny real Llama in 4 bit: exact resume after kill -9, broken checkpoints, divergence, the gate."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.config import TrainConfig
from core.contract import Stage
from core.data.record import TokenisedRow, read_labeled
from core.data.tokens import tokenise
from core.errors import BadConfig, Evicted, TrainingDiverged
from core.files import read_json_lines
from core.nouns import Adapter
from core.train.train import _write as tokens_written
from core.train.watching import Watched
from core.workspace import Workspace, open_workspace, verify
from tests.core.train.metadata_servers import AwsCloud, GcpCloud, served

DRIVER = Path(__file__).parent / "drive.py"
REPOSITORY = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("drive", DRIVER)
drive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drive)

CONFIG = {
    "student": "tiny",
    "device": "cpu",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 2,
    "learning_rate": 5e-3,
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "checkpoint_steps": 8,
    "supervision": {"orphan_s": 0},  # a worker that outlives its supervisor is for test_supervision.py
    "seed": 11,
}
STEPS = 40  # 40 rows, two epochs, two rows a step


@dataclass
class Case:
    folder: Path
    student: Path
    config: dict = field(default_factory=lambda: dict(CONFIG))
    remote: dict = field(default_factory=dict)
    turns: int = 1

    @property
    def workspace(self) -> Workspace:
        return open_workspace(self.folder / "workspace")

    @property
    def staged(self) -> Path:
        (found,) = (self.folder / "workspace" / "staging").glob("train-*")
        return found

    def asked(self) -> dict:
        beside = self.folder / "profile"
        (beside / "models").mkdir(parents=True, exist_ok=True)
        card = {
            "roles": ["student"],
            "source": {"kind": "local", "path": str(self.student)},
            "parameters": 100_000,
            "hidden_size": 64,
            "licence": "MIT",
            "chat_template": "chatml",
            "memory_mib": 1,
        }
        (beside / "models" / "tiny.yaml").write_text(json.dumps(card), encoding="utf-8")
        return {
            "workspace": str(self.folder / "workspace"),
            "events": str(self.folder / "events.jsonl"),
            "beside": str(beside),
            "rows": 40,
            "turns": self.turns,
            "config": self.config,
            "remote": self.remote,
        }

    def finish(self) -> Adapter:
        return drive.run(self.asked())

    def kill(self, after: int, at: str = "train-step") -> None:
        path = self.folder / "case.json"
        path.write_text(json.dumps({**self.asked(), "kill_after": after, "kill_at": at}), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run([sys.executable, str(DRIVER), str(path)], capture_output=True, check=False, env=environment)
        assert done.returncode == -9, done.stderr.decode()

    def events(self, kind: str) -> list[dict]:
        lines = (self.folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["kind"] == kind]

    def content(self, adapter: Adapter) -> Path:
        return self.workspace.folder(Stage.TRAIN, adapter.artifact_id)


@pytest.fixture(scope="module")
def undisturbed(tiny_student, tmp_path_factory) -> tuple[Case, Adapter]:
    case = Case(tmp_path_factory.mktemp("undisturbed"), tiny_student)
    return case, case.finish()


@pytest.fixture
def case(tiny_student, tmp_path) -> Case:
    return Case(tmp_path, tiny_student)


def steps_of(case: Case, adapter: Adapter) -> list[dict]:
    return [json.loads(line) for line in (case.content(adapter) / "steps.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_training_lowers_the_held_out_loss_and_publishes_what_it_measured(undisturbed):
    case, adapter = undisturbed
    verify(case.workspace, adapter)
    assert adapter.verdict.passed
    assert adapter.held_out_loss < adapter.base_held_out_loss
    assert adapter.metrics["gain"] == adapter.base_held_out_loss - adapter.held_out_loss
    assert adapter.resumed_from_steps == ()
    assert adapter.tools["trl"]
    records = steps_of(case, adapter)
    assert (
        [record["step"] for record in records]
        == list(range(1, STEPS + 1))
        == [e["step"] for e in case.events("train-step")]
    )
    assert sum(record["trained_tokens"] for record in records) == adapter.trained_tokens > 0
    assert {ref.path for ref in adapter.files} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "decisions.jsonl",
        "metrics.jsonl",
        "steps.jsonl",
    }
    seen = Watched(case.workspace, adapter.artifact_id).look()
    assert (seen.state, seen.student, seen.start.steps, seen.last.step) == ("finished", "tiny", STEPS, STEPS)
    assert [bucket.step for bucket in seen.curve] == list(range(1, STEPS + 1))
    assert seen.held_out[0].held_out_loss == adapter.base_held_out_loss
    config = json.loads((case.content(adapter) / "adapter/adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "tiny"
    assert str(case.folder) not in json.dumps(config)
    assert [event["step"] for event in case.events("checkpoint-saved")] == [8, 16, 24, 32, 40]


@pytest.fixture(scope="module")
def killed(tiny_student, tmp_path_factory) -> Case:
    """A training whose whole run was ended by kill -9 at a seeded point; test_resume.py ends the worker at many."""
    case = Case(tmp_path_factory.mktemp("killed"), tiny_student)
    case.kill(after=random.Random(20).randrange(17, 31))
    return case


def test_a_killed_training_is_seen_as_one(killed):
    watched = Watched(killed.workspace, killed.staged.name.removeprefix("train-"))
    deadline = time.monotonic() + 30
    while (seen := watched.look()).state == "running" and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel ends the worker a moment after the run that was killed
    assert (seen.state, seen.student) == ("killed", "tiny")
    assert 17 <= seen.last.step < STEPS
    assert seen.last.step - 8 <= seen.checkpoint_step <= seen.last.step


def copy_of(case: Case, folder: Path) -> Case:
    shutil.copytree(case.folder, folder, dirs_exist_ok=True)
    return Case(folder, case.student)


def decisions_of(content: Path, kind: str) -> list[dict]:
    records = map(json.loads, (content / "decisions.jsonl").read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["decision"] == kind]


@pytest.mark.full
def test_kill_9_ends_with_the_same_losses_and_the_same_bytes(undisturbed, killed, tmp_path):
    case = copy_of(killed, tmp_path)
    adapter = case.finish()
    (resumed,) = adapter.resumed_from_steps
    assert 16 <= resumed < STEPS
    assert [bucket.step for bucket in Watched(case.workspace, adapter.artifact_id).look().curve] == list(
        range(1, STEPS + 1)
    )
    whole, expected = undisturbed
    assert steps_of(case, adapter) == steps_of(whole, expected)
    assert adapter.held_out_loss == expected.held_out_loss
    assert adapter.base_held_out_loss == expected.base_held_out_loss
    assert adapter.content_digest == expected.content_digest
    assert adapter.trained_tokens == expected.trained_tokens


@pytest.mark.full
def test_a_broken_checkpoint_is_set_aside_and_the_one_before_is_taken(undisturbed, killed, tmp_path):
    case = copy_of(killed, tmp_path)
    *_, before, newest = sorted((case.staged / "checkpoints").glob("step-*"))
    flipped = bytearray((newest / "optimizer.safetensors").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (newest / "optimizer.safetensors").write_bytes(flipped)
    adapter = case.finish()
    assert adapter.resumed_from_steps[-1] == int(before.name.removeprefix("step-"))
    (decision,) = decisions_of(case.content(adapter), "checkpoint-set-aside")
    assert "optimizer.safetensors has sha256" in decision["reason"]
    assert [path.name for path in (case.workspace.root / "quarantine").iterdir()] == [decision["moved_to"]]
    (event,) = case.events("set-aside")
    assert event["artifact_id"] == f"checkpoint of step {int(newest.name.removeprefix('step-'))}"
    assert event["reason"] == decision["reason"]
    assert adapter.content_digest == undisturbed[1].content_digest


@pytest.mark.full
def test_an_evicted_training_stops_at_its_step_and_ends_elsewhere_with_the_same_bytes(undisturbed, case):
    def give_notice() -> None:
        while not (case.folder / "events.jsonl").exists() or len(case.events("train-step")) < 5:
            time.sleep(0.01)
        cloud.notify()

    with served(GcpCloud()) as cloud:
        case.config["eviction"] = {"cloud": "GCP", "metadata_url": cloud.url}
        threading.Thread(target=give_notice, daemon=True).start()
        with pytest.raises(Evicted, match="GCP takes this machine away") as evicted:
            case.finish()
    assert evicted.value.exit_status == 75
    stopped = case.events("train-step")[-1]["step"]
    assert 5 <= stopped < STEPS
    assert case.events("checkpoint-saved")[-1]["step"] == stopped

    case.config = dict(CONFIG)
    adapter = case.finish()
    assert adapter.resumed_from_steps == (stopped,)
    assert adapter.content_digest == undisturbed[1].content_digest


@pytest.mark.full
def test_a_machine_that_may_soon_be_taken_away_takes_a_checkpoint_at_once_and_trains_on(undisturbed, case):
    with served(AwsCloud()) as cloud:
        cloud.rebalance = '{"noticeTime": "2026-10-27T08:22:00Z"}'
        case.config["eviction"] = {"cloud": "AWS", "metadata_url": cloud.url}
        adapter = case.finish()
    saved = [event["step"] for event in case.events("checkpoint-saved")]
    assert saved[0] < 8
    assert saved[1:] == [8, 16, 24, 32, 40]
    assert adapter.content_digest == undisturbed[1].content_digest


@pytest.mark.full
def test_a_machine_that_is_lost_is_gone_on_for_by_one_with_nothing_at_its_newest_checkpoint(
    undisturbed, tiny_student, place, tmp_path
):
    remote = json.loads(place.config(lock_expiry_s=1).model_dump_json())
    lost = Case(tmp_path / "lost", tiny_student, remote=remote)
    lost.kill(after=8, at="checkpoint-sent")
    sent = [event["step"] for event in lost.events("checkpoint-sent")]
    shutil.rmtree(lost.folder / "workspace")

    heir = Case(tmp_path / "heir", tiny_student, remote=remote)
    adapter = heir.finish()
    (resumed,) = adapter.resumed_from_steps
    assert resumed == sent[-1] >= 8
    assert [event["step"] for event in heir.events("train-step")] == list(range(resumed + 1, STEPS + 1))
    assert adapter.content_digest == undisturbed[1].content_digest
    assert steps_of(heir, adapter) == steps_of(*undisturbed)
    metrics = (heir.content(adapter) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    trained = [record["step"] for record in map(json.loads, metrics) if record["kind"] == "step"]
    assert set(trained) == set(range(1, STEPS + 1))

    third = Case(tmp_path / "third", tiny_student, remote=remote)
    assert third.finish() == adapter
    assert not (third.folder / "workspace" / "staging").exists() or not list((third.workspace.root / "staging").iterdir())


def test_a_training_learns_all_turns_of_its_chats(case, tmp_path):
    case.turns = 3
    case.config |= {"num_train_epochs": 1, "per_device_train_batch_size": 20, "gradient_accumulation_steps": 1}
    adapter = case.finish()
    labels = case.workspace.folder(Stage.LABEL, adapter.parents[0].artifact_id)
    chats = list(read_labeled(labels / "train.jsonl"))
    rows = tokenise(chats, case.student, adapter.config["max_length"], tmp_path / "tokens", assistant_turns="all")
    answers = sum(len(row.input_ids) - row.answer_start for row in rows)
    assert adapter.trained_tokens == sum(sum(row.completion_mask) for row in rows) > answers


def test_which_turns_are_learned_makes_another_training():
    every, last = (TrainConfig(student="tiny", assistant_turns=turns).shaping() for turns in ("all", "last"))
    assert every != last
    assert every == TrainConfig(student="tiny").shaping()


def test_a_step_that_stands_out_is_told_with_what_is_usual(case):
    detection = {"min_steps": 4, "window_steps": 8, "spike_sigmas": 0.01}
    case.config |= {"num_train_epochs": 1, "detection": detection, "supervision": {"acts": False, "orphan_s": 0}}
    case.finish()
    told = [event["text"] for event in case.events("note") if event["level"] == "warning"]
    assert [text for text in told if "is a spike: measured" in text and ", limit " in text and ", usual " in text]


def test_a_worker_that_is_left_over_reads_whole_rows_while_the_next_start_writes_them_anew(tmp_path):
    path = tmp_path / "train.jsonl"
    seen = []

    class Watching(TokenisedRow):
        def model_dump(self, **named: object) -> dict:
            seen.append(len(list(read_json_lines(path))) if path.exists() else None)
            return super().model_dump(**named)

    rows = [Watching(row_id=str(number), input_ids=(1, 2), completion_mask=(0, 1)) for number in range(3)]
    for _ in range(2):
        tokens_written(path, rows)
    assert seen == [None] * 3 + [3] * 3


@pytest.mark.parametrize("names", [["query", "value"], []])
def test_an_adapter_for_layers_that_the_student_does_not_have_is_refused_by_its_key(case, names):
    case.config["lora"] = {"r": 4, "target_modules": names}
    with pytest.raises(BadConfig, match=r"train\.lora\.target_modules: .* is no layer of tiny, it has q_proj, k_proj"):
        case.finish()


@pytest.mark.full
def test_layers_that_the_student_does_not_have_beside_some_that_it_has_are_told(case):
    case.config |= {"num_train_epochs": 1, "lora": {"r": 4, "target_modules": ["q_proj", "value"]}}
    case.finish()
    told = [event["text"] for event in case.events("note") if event["level"] == "warning"]
    assert [text for text in told if text.startswith("train.lora.target_modules: value is no layer of tiny, it has q_proj")]


@pytest.mark.full
def test_a_student_whose_loss_is_no_number_is_refused_before_it_is_trained(case, tmp_path):
    case.student = poisoned(case.student, tmp_path)
    with pytest.raises(TrainingDiverged, match="held-out loss, base, is nan"):
        case.finish()
    assert not list((case.workspace.root / "artifacts").glob("train/*"))


def poisoned(student: Path, tmp_path: Path) -> Path:
    """Return the student with one weight that is NaN in bf16 (0x7fc0)."""
    folder = shutil.copytree(student, tmp_path / "poisoned")
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-2:] = b"\xc0\x7f"
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_a_student_that_did_not_gain_fails_its_gate_and_the_limit_is_operational(undisturbed):
    case, adapter = undisturbed
    asked = Case(case.folder, case.student, {**CONFIG, "min_gain": 50.0})
    judged = asked.finish()
    assert judged.artifact_id == adapter.artifact_id
    assert not judged.verdict.passed
    assert judged.verdict.failures[0].limit.metric == "gain"
    assert len(case.events("train-step")) == STEPS
