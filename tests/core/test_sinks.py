"""Sinks: the events file, the log lines with their level, and no secret in either."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from core import config
from core.contract import Finding, Severity, Stage, Verdict
from core.events import (
    CheckpointSaved,
    Evaluated,
    Event,
    Found,
    Note,
    Progress,
    Promoted,
    Resumed,
    RolledBack,
    RunFailed,
    RunFinished,
    RunStarted,
    SetAside,
    StageFinished,
    StageReused,
    StageStarted,
    TrainingDecided,
    TrainStep,
    TrialEnded,
    parse_event,
)
from core.sinks import EventsFile, describe, hide, hiding, level_of, log, secret_names

PASSED, REFUSED = Verdict(passed=True), Verdict(passed=False)
FINDING = Finding(
    code="disk-tight", severity=Severity.WARNING, where="/", evidence="4 GB free", cause="small disk", remedy="Free some."
)
TRIAL: Any = {"reason": "worse", "drawn": {"rate": 5e-4, "r": 8}, "ended": 4, "trials": 9}
EVERY: list[tuple[Event, int, str]] = [
    (RunStarted(run_id="r", profile="demo"), logging.INFO, "demo"),
    (RunFinished(run_id="r", profile="demo", summary="all well"), logging.INFO, "all well"),
    (RunFailed(run_id="r", profile="demo", code="x", error="[x] bad\nFix: y"), logging.ERROR, "[x] bad"),
    (StageStarted(stage=Stage.ENV, artifact_id="a"), logging.INFO, "env a began"),
    (StageReused(stage=Stage.ENV, artifact_id="a", verdict=PASSED), logging.INFO, "reused"),
    (StageFinished(stage=Stage.ENV, artifact_id="a", seconds=1.25, verdict=REFUSED), logging.WARNING, "its gate said no"),
    (SetAside(stage=Stage.ENV, artifact_id="a", reason="tampered", moved_to="q"), logging.WARNING, "tampered"),
    (Progress(stage=None, task="build", done=3, total=9, unit="files"), logging.DEBUG, "build: 3/9 files"),
    (Progress(stage=None, task="build", done=3, total=None, unit="files"), logging.DEBUG, "build: 3 files"),
    (Note(stage=None, text="a line"), logging.INFO, "a line"),
    (Note(stage=None, text="beware", level="warning"), logging.WARNING, "beware"),
    (Found(stage=Stage.ENV, finding=FINDING), logging.WARNING, "disk-tight at /: small disk; 4 GB free. Free"),
    (Note(stage=None, text="\x1b[2J\nbad"), logging.INFO, "\\x1b[2J\\nbad"),
    (TrainStep(step=1, steps=9, loss=1.5, learning_rate=4e-4, grad_norm=None), logging.DEBUG, "loss 1.5000"),
    (CheckpointSaved(step=10), logging.INFO, "step 10"),
    (Evaluated(step=10, held_out_loss=1.25), logging.INFO, "held-out loss 1.2500 after step 10"),
    (TrainingDecided(decision="halted", step=9, to_step=8, text="a spike"), logging.INFO, "halted at step 9: a spike"),
    (
        TrainingDecided(decision="rolled-back", step=9, to_step=8, text="a spike", level="warning"),
        logging.WARNING,
        "rolled-back at step 9: a spike",
    ),
    (
        TrialEnded(number=3, outcome="finished", held_out_loss=1.25, **TRIAL),
        logging.INFO,
        "trial 3 finished (4/9), held-out",
    ),
    (TrialEnded(number=3, outcome="pruned", held_out_loss=None, **TRIAL), logging.INFO, "worse: rate 0.0005, r 8"),
    (Resumed(stage=Stage.TRAIN, done=10, unit="steps"), logging.INFO, "after 10 steps"),
    (Promoted(profile="demo", artifact_id="a", previous=None), logging.INFO, "points to a"),
    (RolledBack(profile="demo", artifact_id="a", restored="b", reason="silent"), logging.WARNING, "to b: silent"),
]


@pytest.mark.parametrize(("event", "level", "part"), EVERY, ids=lambda value: getattr(value, "kind", None))
def test_every_event_has_a_level_and_reads_as_one_line(event: Event, level: int, part: str) -> None:
    assert level_of(event) == level
    assert part in describe(event)
    assert "\n" not in describe(event)


def test_the_events_file_holds_one_line_each_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "events.jsonl"
    with EventsFile(path) as sink:
        for event, _, _ in EVERY:
            sink(event)
        lines = path.read_bytes().splitlines()
        assert [parse_event(line) for line in lines] == [event for event, _, _ in EVERY]
    with EventsFile(path) as sink:
        sink(Note(stage=None, text="appended", at=datetime.now(UTC)))
    assert len(path.read_bytes().splitlines()) == len(EVERY) + 1


def test_core_s_logger_carries_the_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="core"):
        log(Note(stage=None, text="beware", level="warning"))
    assert [(record.name, record.levelname, record.message) for record in caplog.records] == [("core", "WARNING", "beware")]


def test_a_secret_s_value_is_replaced_by_its_name(monkeypatch: pytest.MonkeyPatch, events: list[Event]) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-hunter2")
    monkeypatch.setenv("SHORT", "a")
    monkeypatch.delenv("UNSET", raising=False)
    sink = hiding(("TEACHER_KEY", "SHORT", "UNSET"), events.append)
    sink(Note(stage=None, text="401 for key sk-hunter2"))
    sink(Note(stage=None, text="a plain line"))
    assert [event.text for event in events if isinstance(event, Note)] == ["401 for key <TEACHER_KEY>", "a plain line"]
    assert hide("sk-hunter2", ()) == "sk-hunter2"


def test_the_secrets_of_a_profile_are_known_by_name() -> None:
    profile = config.load("demo", ["label.api_key_env=TEACHER_KEY", "alerts.url_envs=[SLACK]"])
    assert set(secret_names(profile)) == {"SLACK", "TEACHER_KEY"}


def test_what_a_row_holds_never_drives_the_terminal() -> None:
    hostile = FINDING.model_copy(update={"evidence": "\x1b]0;title\x07\x1b[31mred\u202e"})
    assert describe(Found(stage=Stage.DATA, finding=hostile)).isprintable()
