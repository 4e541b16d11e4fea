"""A training looked at from outside, in every state it can be in, by the files that a training really writes."""

from __future__ import annotations

import json
import time

import pytest

from core.contract import Stage
from core.errors import ArtifactMissing
from core.train.recorded import Point
from core.train.watching import Watched, curve, named_training, newest_training
from core.workspace import locked
from tests.core.train.sample_trainings import TRAINING, begun, close, staged, trained


def test_a_training_that_runs_tells_its_curve_and_how_long_it_still_takes(workspace):
    metrics = begun(workspace)
    watched = Watched(workspace, TRAINING)
    seen = watched.look()
    assert (seen.state, seen.student, seen.last.step, seen.start.steps) == ("running", "tiny", 5, 40)
    assert [bucket.step for bucket in seen.curve] == [1, 2, 3, 4, 5]
    assert seen.curve[1].loss_mean == 1.0
    assert seen.eta.learned_from == "its first steps"
    assert not seen.is_over
    metrics.held_out(5, 1.0)
    assert [one.held_out_loss for one in watched.look().held_out] == [2.0, 1.0]
    close(metrics)


def test_one_that_was_killed_is_told_from_one_that_waits_for_its_next_worker(workspace):
    close(begun(workspace))
    watched = Watched(workspace, TRAINING)
    with locked(workspace, "edgekiln train"):
        seen = watched.look()
        assert seen.state == "starting"
        assert "(edgekiln train)" in seen.why
    seen = watched.look()
    assert (seen.state, seen.eta, seen.is_over) == ("killed", None, True)


def test_one_that_starts_has_nothing_to_tell_yet(workspace):
    staged(workspace)
    with locked(workspace, "edgekiln run"):
        seen = Watched(workspace, TRAINING).look()
    assert (seen.state, seen.student, seen.start, seen.curve) == ("starting", None, None, ())


def test_one_that_ended_with_an_error_says_which(workspace):
    close(begun(workspace))
    failure = {"kind": "TrainingDiverged", "problem": "the loss of step 6 is nan", "remedy": "..."}
    folder = workspace.staging(Stage.TRAIN, TRAINING) / "workers" / "0001"
    (folder / "failure.json").write_text(json.dumps(failure), encoding="utf-8")
    seen = Watched(workspace, TRAINING).look()
    assert (seen.state, seen.why) == ("stopped", "the loss of step 6 is nan")


def test_one_that_was_mended_and_then_killed_does_not_say_what_was_mended(workspace):
    close(begun(workspace))
    workers = workspace.staging(Stage.TRAIN, TRAINING) / "workers"
    (workers / "0002").mkdir()
    (workers / "0002" / "request.json").write_text('{"student_name": "tiny"}', encoding="utf-8")
    (workers / "0001" / "failure.json").write_text('{"problem": "step 6: loss is a spike"}', encoding="utf-8")
    assert Watched(workspace, TRAINING).look().state == "killed"


def test_one_that_was_given_up_says_why_though_its_last_worker_only_measured(workspace):
    close(begun(workspace))
    staging = workspace.staging(Stage.TRAIN, TRAINING)
    decided = '{"decision": "halted", "step": 6}\n{"decision": "gave-up", "step": 6, "reason": "tried: twice back"}\n'
    (staging / "content" / "decisions.jsonl").write_text(decided, encoding="utf-8")
    seen = Watched(workspace, TRAINING).look()
    assert (seen.state, seen.why) == ("stopped", "tried: twice back")


def test_one_whose_scratch_folder_a_kill_left_behind_its_artifact_is_finished(workspace):
    adapter = trained(workspace, host="h")
    left = workspace.staging(Stage.TRAIN, adapter.artifact_id) / "checkpoints" / "step-00000008"
    left.mkdir(parents=True)
    seen = Watched(workspace, adapter.artifact_id).look()
    assert (seen.state, seen.student, len(seen.curve)) == ("finished", "x", 40)


def test_a_manifest_that_is_damaged_is_told_and_breaks_nothing(workspace):
    adapter = trained(workspace, host="h")
    manifest = workspace.folder(Stage.TRAIN, adapter.artifact_id) / "manifest.json"
    manifest.write_text('{"student": "x"}', encoding="utf-8")
    seen = Watched(workspace, adapter.artifact_id).look()
    assert (seen.state, seen.student) == ("stopped", None)
    assert "manifest" in seen.why


def test_one_that_is_finished_is_followed_from_its_staging_folder_to_its_artifact(workspace):
    adapter = trained(workspace, host="h")
    seen = Watched(workspace, adapter.artifact_id).look()
    assert (seen.state, seen.student, len(seen.curve)) == ("finished", "x", 40)
    assert seen.why == "held-out loss 1.0000 -> 0.5000 (-0.5000), its gate said yes"
    metrics = begun(workspace)
    watched = Watched(workspace, TRAINING)
    assert watched.look().state == "running"
    close(metrics)
    workspace.folder(Stage.TRAIN, TRAINING).parent.mkdir(exist_ok=True)
    (workspace.staging(Stage.TRAIN, TRAINING) / "content").rename(workspace.folder(Stage.TRAIN, TRAINING))
    for path in sorted(workspace.staging(Stage.TRAIN, TRAINING).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    workspace.staging(Stage.TRAIN, TRAINING).rmdir()
    seen = watched.look()
    assert seen.last.step == 5
    assert seen.state == "stopped"  # it has no manifest
    assert "no train artifact" in seen.why


def test_what_was_decided_is_told_and_what_no_edgekiln_wrote_is_passed_over(workspace):
    close(begun(workspace))
    path = workspace.staging(Stage.TRAIN, TRAINING) / "content" / "decisions.jsonl"
    path.write_bytes(b'{"decision": "resumed", "step": 3}\nnonsense\n[1]\n\xff\n{"decision": "shrunk", "step": 4}\n')
    assert [told["decision"] for told in Watched(workspace, TRAINING).look().decisions] == ["resumed", "shrunk"]


def test_the_newest_training_is_the_one_that_was_worked_on_last(workspace):
    assert newest_training(workspace) is None
    adapter = trained(workspace, host="h")
    assert newest_training(workspace) == adapter.artifact_id
    time.sleep(0.02)
    close(begun(workspace))
    assert newest_training(workspace) == TRAINING
    assert named_training(workspace, adapter.artifact_id[:3]) == adapter.artifact_id
    for wrong in ("zz", ""):
        with pytest.raises(ArtifactMissing):
            named_training(workspace, wrong)


def test_a_long_curve_keeps_its_extremes_and_leaves_out_what_is_no_number():
    points = [Point(step, 9.0 if step == 777 else 1.0, 0.5, None, 1.0) for step in range(1, 10_001)]
    points[100] = Point(101, float("nan"), float("inf"), None, 1.0)
    drawn = curve(points)
    assert len(drawn) <= 400
    assert max(bucket.loss_max for bucket in drawn) == 9.0
    assert drawn[-1].step == 10_000
    assert curve([Point(1, float("nan"), None, None, 1.0)])[0].loss_mean is None
