"""The env stage: publishing, reuse, blocking."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from core.config import EnvConfig
from core.contract import Stage
from core.env.check import check
from core.env.checks import CHECKS
from core.errors import BadConfig, BlockedByCheck
from core.events import Event, Found, StageReused
from core.nouns import EnvReport
from core.workspace import Workspace, artifacts, verify

LENIENT = EnvConfig(min_free_disk_gb=0, min_ram_gb=0.1, skip=("packages", "programs"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))


def test_a_healthy_machine_gets_a_verified_report_in_no_time(workspace: Workspace, events: list[Event]) -> None:
    started = time.perf_counter()

    report = check(LENIENT, workspace, events.append)

    assert time.perf_counter() - started < 3
    assert report.verdict.passed
    assert report.inputs == (report.host.fingerprint,)
    assert report.metrics["free_disk_gb"] > 0
    assert report.tools["python"]
    verify(workspace, report)


def test_a_report_is_reused_while_it_is_young(workspace: Workspace, events: list[Event]) -> None:
    first = check(LENIENT, workspace)

    assert check(LENIENT, workspace, events.append).artifact_id == first.artifact_id
    assert [type(event) for event in events] == [StageReused]
    assert check(LENIENT.model_copy(update={"max_age_s": 0.0}), workspace).artifact_id != first.artifact_id


def test_a_higher_demand_is_checked_at_once(workspace: Workspace) -> None:
    check(LENIENT, workspace)

    with pytest.raises(BlockedByCheck, match=r"env\.min_ram_gb 1e\+06"):
        check(LENIENT.model_copy(update={"min_ram_gb": 1e6}), workspace)


def test_a_blocked_report_is_published_told_and_never_reused(
    workspace: Workspace, events: list[Event], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")

    with pytest.raises(BlockedByCheck) as caught:
        check(LENIENT, workspace, events.append)

    (report,) = artifacts(workspace, Stage.ENV)
    assert isinstance(report, EnvReport)
    assert not report.verdict.passed
    assert [event.finding for event in events if isinstance(event, Found)] == list(report.findings)
    listed = json.loads((workspace.folder(Stage.ENV, report.artifact_id) / "findings.json").read_bytes())
    assert [finding["code"] for finding in listed] == ["cache"]
    assert caught.value.exit_status == 4
    assert caught.value.remedy == report.findings[0].remedy

    (tmp_path / "cache").unlink()
    assert check(LENIENT, workspace).verdict.passed


def test_several_failing_checks_are_told_in_one_error(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")

    with pytest.raises(BlockedByCheck, match=r"cache .*written there.*; ram .* GB usable <"):
        check(LENIENT.model_copy(update={"min_ram_gb": 1e6}), workspace)


def test_an_unknown_check_to_skip_stops_before_anything_is_written(workspace: Workspace) -> None:
    with pytest.raises(BadConfig):
        check(EnvConfig(skip=(*CHECKS, "no-such-check")), workspace)

    assert artifacts(workspace, Stage.ENV) == []
