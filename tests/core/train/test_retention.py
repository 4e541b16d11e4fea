"""Which checkpoints stay."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.train import checkpoints, retention

_spec = importlib.util.spec_from_file_location("sample_checkpoints", Path(__file__).parent / "sample_checkpoints.py")
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)


def steps(root: Path) -> list[int]:
    return [checkpoints.step_of(path) for path in checkpoints.all_in(root)]


def test_only_the_last_two_stay_where_nothing_else_is_known(tmp_path):
    root = sample.kept(tmp_path, 10, 20, 30, 40)
    dropped = retention.thin(root, root / "writing")
    assert [path.name for path in dropped] == ["step-00000010", "step-00000020"]
    assert steps(root) == [30, 40]
    assert list((root / "writing").iterdir()) == []


def test_however_close_they_are_one_from_before_a_run_of_bad_steps_stays(tmp_path):
    for step in range(1, 60):
        root = sample.kept(tmp_path, step)
        retention.thin(root, root / "writing")
        there = steps(root)
        assert len(there) <= retention.KEEP + 2
        assert there[0] <= max(1, step - retention.BEFORE_RUN)
        assert there[0] >= step - 2 * retention.BEFORE_RUN


def test_going_back_takes_away_what_came_after(tmp_path):
    root = sample.kept(tmp_path, 10, 20, 30)
    retention.write_scores(root, {10: 1.2, 20: 1.1, 30: 0.9})
    retention.back_to(root, root / "writing", 20)
    assert steps(root) == [10, 20]
    assert retention.scores(root) == {10: 1.2, 20: 1.1}
    assert list((root / "writing").iterdir()) == []
    retention.back_to(root, root / "writing", 0)
    assert steps(root) == []


def test_the_best_stays_until_a_better_one_is_there(tmp_path):
    root = sample.kept(tmp_path, 10, 20, 30, 40)
    retention.write_scores(root, {10: 1.2, 20: 1.1, 30: 1.3})
    retention.thin(root, root / "writing")
    assert steps(root) == [20, 30, 40]
    assert retention.best_of(root) == root / "step-00000020"
    assert retention.by_held_out_loss(root) == [root / "step-00000020", root / "step-00000030"]
    retention.write_scores(root, {10: 1.2, 20: 1.1, 30: 1.3, 40: 1.0})
    sample.kept(tmp_path, 50)
    retention.thin(root, root / "writing")
    assert steps(root) == [40, 50]


@pytest.mark.parametrize("text", ["", "[1]", '{"five": 1}', '{"5": null}', "\x00"])
def test_scores_nobody_can_read_only_cost_the_best_its_place(tmp_path, text):
    root = sample.kept(tmp_path, 10, 20, 30)
    (root / "held_out_losses.json").write_text(text)
    assert retention.best_of(root) is None
    retention.thin(root, root / "writing")
    assert steps(root) == [20, 30]


@settings(deadline=None, max_examples=25)  # a sync to disk takes what it takes
@given(st.lists(st.tuples(st.integers(1, 9), st.none() | st.floats(0, 9)), min_size=1, max_size=7))
def test_the_newest_and_the_best_are_there_after_any_history(tmp_path_factory, history):
    folder, step, scores = tmp_path_factory.mktemp("history"), 0, {}
    for apart, loss in history:
        step += apart
        root = sample.kept(folder, step)
        retention.thin(root, root / "writing")
        if loss is not None:
            scores[step] = loss
            retention.write_scores(root, scores)
        assert steps(root)[-1] == step
        if scores:
            assert scores[checkpoints.step_of(retention.best_of(root))] == min(scores.values())
        assert len(steps(root)) <= retention.KEEP + 3
