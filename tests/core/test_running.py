"""A run's record says what became of it, whatever that was."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import config
from core.contract import Stage, Verdict
from core.errors import GateRefused
from core.events import Event, RunFailed, RunFinished, RunStarted, StageFinished, StageReused, parse_event
from core.running import Recorded
from core.runs import RunStatus, read_run, standing
from core.workspace import Workspace, locked

PROFILE = config.load("demo")
PASSED = Verdict(passed=True)


def test_a_run_that_ends_well_records_its_stages_and_tells_so(workspace: Workspace, events: list[Event]) -> None:
    with Recorded(workspace, PROFILE, "r1", events.append) as on_event:
        on_event(StageReused(stage=Stage.ENV, artifact_id="a" * 12, verdict=PASSED))
        on_event(StageFinished(stage=Stage.EXPORT, artifact_id="b" * 12, seconds=1, verdict=PASSED))
        assert read_run(workspace, "r1").status is RunStatus.RUNNING
        assert read_run(workspace, "r1").artifacts[Stage.ENV] == "a" * 12
    record = read_run(workspace, "r1")
    assert record.status is RunStatus.FINISHED
    assert (record.reused, record.error) == ((Stage.ENV,), None)
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert "bbbbbbbbbbbb" in events[-1].summary
    lines = (workspace.run_folder("r1") / "events.jsonl").read_bytes().splitlines()
    assert [parse_event(line) for line in lines] == events


def test_a_failure_is_recorded_without_the_secret_in_it(
    workspace: Workspace, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-hunter2")
    profile = config.load("demo", ["label.api_key_env=TEACHER_KEY"])
    with pytest.raises(GateRefused), Recorded(workspace, profile, "r1", events.append):
        raise GateRefused("sk-hunter2 < 3", remedy="None.")
    record = read_run(workspace, "r1")
    assert (record.status, record.error) == (RunStatus.FAILED, "[gate-refused] <TEACHER_KEY> < 3\nFix: None.")
    assert isinstance(events[-1], RunFailed)
    assert events[-1].code == "gate-refused"
    assert b"hunter2" not in b"".join(path.read_bytes() for path in workspace.root.rglob("*.json*"))


class TerminationSignal(BaseException):
    """As Prefect's own, which core may not import."""


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        (KeyboardInterrupt(), "[interrupted] Ctrl-C"),
        (TerminationSignal(), "[terminated] SIGTERM"),
        (SystemExit(1), "[interrupted] the program was told to exit with status 1"),
    ],
)
def test_a_stop_is_recorded_in_two_lines_that_say_what_it_was(workspace: Workspace, stop: BaseException, told: str) -> None:
    with pytest.raises(type(stop)), Recorded(workspace, PROFILE, "r1"):
        raise stop
    record = read_run(workspace, "r1")
    assert record.status is RunStatus.INTERRUPTED
    problem, remedy = (record.error or "").splitlines()
    assert problem.startswith(told)
    assert remedy.startswith("Fix: Start the same command again")


def test_ctrl_c_marks_the_run_interrupted_and_alerts_nobody(workspace: Workspace, events: list[Event]) -> None:
    with pytest.raises(KeyboardInterrupt), Recorded(workspace, PROFILE, "r1", events.append):
        raise KeyboardInterrupt
    assert read_run(workspace, "r1").status is RunStatus.INTERRUPTED
    assert not [event for event in events if isinstance(event, RunFailed)]


def test_the_next_run_finds_one_that_was_killed(workspace: Workspace, tmp_path: Path) -> None:
    Recorded(workspace, PROFILE, "killed").__enter__()
    with Recorded(workspace, PROFILE, "next"):
        assert read_run(workspace, "killed").status is RunStatus.INTERRUPTED
    assert read_run(workspace, "killed").error == "the run was killed"


def test_a_run_that_was_killed_is_seen_as_that_without_writing(workspace: Workspace) -> None:
    with locked(workspace, "edgekiln run"):
        Recorded(workspace, PROFILE, "killed").__enter__()
        assert standing(workspace)[0].status is RunStatus.RUNNING
    (seen,) = standing(workspace)
    assert (seen.status, seen.error) == (RunStatus.INTERRUPTED, "the run was killed")
    assert read_run(workspace, "killed").status is RunStatus.RUNNING
