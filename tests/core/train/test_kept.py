"""Where a training can go on from: sound checkpoints that were not abandoned, and what was decided before they were taken."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from core.events import Event
from core.train import checkpoints, retention
from core.train.alarm import Alarm
from core.train.decision import Decisions
from core.train.kept import Kept

_spec = importlib.util.spec_from_file_location("sample_checkpoints", Path(__file__).parent / "sample_checkpoints.py")
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)


@pytest.fixture
def heard() -> list[Event]:
    return []


def decisions_at(folder: Path, heard: list[Event]) -> Decisions:
    return Decisions(folder / "decisions.jsonl", heard.append, folder / "quarantine")


def kept_at(root: Path, decisions: Decisions, heard: list[Event]) -> Kept:
    return Kept(root, root.parent / "quarantine", sample.TRAINING, decisions, heard.append)


def step(path: Path | None) -> int | None:
    return None if path is None else checkpoints.step_of(path)


def test_the_newest_sound_one_up_to_a_bound_is_found_and_a_broken_one_is_set_aside_and_told(tmp_path, heard):
    root = sample.kept(tmp_path, 8, 16, 24)
    decisions = decisions_at(tmp_path, heard)
    kept = kept_at(root, decisions, heard)
    (root / "step-00000016" / "trainer_state.json").write_bytes(b"[]")
    assert [step(kept.newest(bound)) for bound in (None, 23, 7)] == [24, 8, None]
    (decision,) = decisions.records
    assert (decision.decision, decision.step) == ("checkpoint-set-aside", 16)
    assert [event.kind for event in heard] == ["set-aside"]
    assert (tmp_path / "quarantine" / str(decision.moved_to)).is_dir()


def test_what_comes_back_after_it_was_abandoned_is_not_gone_on_from(tmp_path, heard):
    root = sample.kept(tmp_path, 8, 16, 24)
    away = shutil.copytree(root / "step-00000024", tmp_path / "elsewhere")
    decisions = decisions_at(tmp_path, heard)
    kept = kept_at(root, decisions, heard)
    kept.back_to(16)
    decisions.add("rolled-back", 30, to_step=16, learning_rate_factor=0.5)
    shutil.copytree(away, root / "step-00000024")
    assert step(kept.newest(None)) == 16
    assert not (root / "step-00000024").exists()
    sample.kept(tmp_path, 20, 26, rollbacks=1)
    assert step(kept.newest(None)) == 26


def test_the_best_of_a_rise_is_none_where_the_base_was_better_than_all_of_them(tmp_path, heard):
    root = sample.kept(tmp_path, 8, 16)
    retention.write_scores(root, {8: 3.1, 16: 3.4})
    kept = kept_at(root, decisions_at(tmp_path, heard), heard)

    def rise(best: float) -> Alarm:
        return Alarm(kind="diverging", metric="held_out_loss", step=24, figure=4.0, limit=3.7, baseline=best)

    assert step(kept.best(rise(3.1))) == 8
    assert kept.best(rise(3.0)) is None
    assert step(kept.best(None)) == 8


def test_another_machine_knows_what_was_decided_before_the_checkpoint_it_goes_on_from(tmp_path, heard):
    there = decisions_at(tmp_path / "there", heard)
    there.add("skipped", 12, to_step=11, left_out=("row-3",))
    there.add("rolled-back", 30, to_step=16, learning_rate_factor=0.5)
    root = tmp_path / "here" / "checkpoints"
    written = sample.written(root / "writing" / "step-24")
    shutil.copyfile(there.path, written / checkpoints.DECISIONS)
    checkpoint = checkpoints.keep(written, root, sample.taken(24, rollbacks=1))
    here = decisions_at(tmp_path / "here", heard)
    kept = kept_at(root, here, heard)
    assert kept.newest(None) == checkpoint
    kept.tell_resumed(checkpoint)
    assert here.standing == there.standing
    assert [one.decision for one in decisions_at(tmp_path / "here", heard).records] == ["skipped", "rolled-back", "resumed"]
