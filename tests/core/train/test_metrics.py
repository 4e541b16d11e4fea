"""metrics.jsonl: written in whole lines, read while it grows, and what it tells of a training that went back or was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core import config
from core.train.metrics import Metrics, speed_key
from core.train.recorded import Recorded, is_written

START = {
    "after_step": 0,
    "steps": 9,
    "rows": 18,
    "device": "cpu",
    "device_name": "a CPU",
    "host": "h",
    "processes": 1,
    "trainable_parameters": 5,
    "speed": "s",
}


def record(step: int, loss: float = 1.0) -> dict:
    return {"step": step, "loss": loss, "learning_rate": 1e-3, "grad_norm": 0.5, "trained_tokens": 30}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "content" / "metrics.jsonl"


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_step_is_measured_from_where_it_began(path):
    now = [10.0]
    metrics = Metrics(path, lambda: {"rss_bytes": 7}, lambda: now[0])
    now[0] = 100.0
    metrics.begin()
    now[0] = 102.0
    metrics.beside(layer_grad_norms={"0": 0.1})
    metrics.write(record(1), tokens=50)
    metrics.write(record(2), tokens=50)
    first, second = written(path)
    assert (first["step_s"], first["tokens_per_s"], first["rss_bytes"]) == (2.0, 25.0, 7)
    assert first["layer_grad_norms"] == {"0": 0.1}
    assert "layer_grad_norms" not in second
    assert datetime.fromisoformat(first["at"]) <= datetime.now(UTC)


def test_a_reader_sees_what_was_added_since_it_last_looked(path):
    recorded = Recorded(path)
    recorded.refresh()
    assert (recorded.points, recorded.start) == ([], None)
    metrics = Metrics(path, lambda: {"rss_bytes": 7})
    metrics.held_out(0, 2.5)
    metrics.start(**START)
    metrics.write(record(1, 1.5), tokens=40)
    recorded.refresh()
    assert (recorded.start.steps, recorded.points[0].loss, recorded.points[0].wall_s) == (9, 1.5, None)
    metrics.write(record(2, 1.2), tokens=40)
    metrics.held_out(2, 1.9)
    recorded.refresh()
    assert [point.step for point in recorded.points] == [1, 2]
    assert recorded.points[1].wall_s >= 0
    assert [(one.step, one.held_out_loss) for one in recorded.held_out] == [(0, 2.5), (2, 1.9)]
    assert (recorded.last.step, recorded.tokens, recorded.trained_tokens) == (2, 80, 60)


def test_steps_that_were_taken_in_vain_are_dropped_when_a_training_goes_back(path):
    first = Metrics(path, dict)
    first.held_out(0, 2.0)
    first.start(**START)
    for step in range(1, 7):
        first.write(record(step), tokens=40)
    first.held_out(6, 1.0)
    again = Metrics(path, dict)
    again.held_out(0, 2.0)
    again.start(**{**START, "after_step": 4})
    again.write(record(5, 0.9), tokens=40)
    recorded = Recorded(path)
    recorded.refresh()
    assert [point.step for point in recorded.points] == [1, 2, 3, 4, 5]
    assert recorded.points[-1][:4] == (5, 0.9, 0.5, None)
    assert [one.step for one in recorded.held_out] == [0]


def test_a_line_that_a_kill_cut_off_spoils_neither_what_was_nor_what_comes(path):
    Metrics(path, dict).write(record(1), tokens=40)
    with path.open("ab") as stream:
        stream.write(b'{"kind": "step", "step": 2, "lo')
    recorded = Recorded(path)
    recorded.refresh()
    assert [point.step for point in recorded.points] == [1]
    Metrics(path, dict).write(record(2), tokens=40)
    recorded.refresh()
    assert [point.step for point in recorded.points] == [1, 2]


def test_a_clock_that_was_put_back_makes_no_step_shorter_than_it_took(path):
    now = [0.0]
    metrics = Metrics(path, dict, lambda: now[0])
    metrics.start(**START)
    for step in (1, 2):
        metrics.begin()
        now[0] += 3.0
        metrics.write(record(step), tokens=40)
    *others, last = written(path)
    last["at"] = "2020-01-01T00:00:00+00:00"
    path.write_text("".join(json.dumps(line) + "\n" for line in (*others, last)), encoding="utf-8")
    recorded = Recorded(path)
    recorded.refresh()
    assert recorded.points[-1].wall_s == 3.0


@pytest.mark.parametrize(
    "strange", [b"7\n", b"[]\n", b'{"kind": "step"}\n', b'{"kind": "news"}\n', b"\xff\xfe\n", b"x" * 3_000_000]
)
def test_lines_that_no_edgekiln_wrote_are_passed_over(path, strange):
    path.parent.mkdir()
    path.write_bytes(strange)
    Metrics(path, dict).write(record(1), tokens=40)
    recorded = Recorded(path)
    recorded.refresh()
    assert [point.step for point in recorded.points] == [1]


def test_another_file_in_its_place_is_read_from_the_beginning(path):
    Metrics(path, dict).write(record(3), tokens=40)
    recorded = Recorded(path)
    recorded.refresh()
    path.rename(path.with_name("old"))
    Metrics(path, dict).write(record(1), tokens=40)
    recorded.refresh()
    assert [point.step for point in recorded.points] == [1]


def test_a_training_that_runs_is_told_from_one_that_was_killed(path):
    program = (
        "import pathlib, sys, time; from core.train.metrics import Metrics\n"
        f"kept = Metrics(pathlib.Path({str(path)!r}), dict); print('open', flush=True); time.sleep(60)\n"
    )
    assert not is_written(path)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"open\n"
        assert is_written(path)
        child.kill()
        child.wait()
        assert not is_written(path)


def test_the_speed_key_changes_with_what_makes_a_step_longer_and_with_nothing_else():
    plain = speed_key(config.load("demo").train)
    for same in ("learning_rate=0.5", "seed=3", "num_train_epochs=9", "lora.lora_alpha=4", "eval_steps=2"):
        assert speed_key(config.load("demo", [f"train.{same}"]).train) == plain
    for other in (
        "max_length=64",
        "lora.r=4",
        "per_device_train_batch_size=2",
        "packing=true",
        "quantisation=none",
        "distillation={}",
    ):
        assert speed_key(config.load("demo", [f"train.{other}"]).train) != plain
