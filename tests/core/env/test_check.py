"""The env stage: publishing, reuse, blocking, roles, skipping; with the parts of this machine only, so that it is quick."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core import config
from core.config import Profile
from core.contract import Severity, Stage
from core.env.check import check, examine, parts, refuse_unknown
from core.env.document import EnvDocument, document, json_schema, overall
from core.env.machine.capability import CAPABILITY as MACHINE
from core.env.roles import Role, RoleVerdict
from core.errors import BadConfig, BlockedByCheck
from core.events import Event, Found, StageReused
from core.nouns import EnvReport
from core.workspace import Workspace, artifacts, open_workspace, verify

ROOT = Path(__file__).parents[3]
OWN = {check.code for check in MACHINE.checks}
OTHERS = sorted({check.code for part in parts() for check in part.checks} - OWN)
SLOW = ("spot", "programs", "docker", "memory-bandwidth", "disk-speed")
BESIDE = Path()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))


def profile(**env: Any) -> Profile:
    skip = [*OTHERS, *SLOW, "interpreter"]
    lenient = {"min_free_disk_gb": 0, "min_ram_gb": 0.1, "measure_s": 0.02, "skip": skip}
    return config.load("demo", {f"env.{key}": value for key, value in {**lenient, **env}.items()})


def blocking(tmp_path: Path) -> Mapping[str, Any]:
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")
    return {}


def test_a_healthy_machine_gets_a_verified_report(workspace: Workspace, events: list[Event]) -> None:
    report = check(profile(skip=[*OTHERS, "programs", "interpreter"]), workspace, BESIDE, events.append)

    assert report.verdict.passed
    assert report.inputs[0] == report.host.fingerprint
    assert report.metrics["free_disk_gb"] > 0
    assert report.metrics["usable_ram_gb"] > 0
    assert report.tools["python"]
    assert set(report.roles) == {Role.LABELER, Role.TRAINER, Role.EXPORTER, Role.BENCH_HOST}
    assert {"processor", "memory", "Python", "memory bandwidth", "write speed", "cloud"} <= {f.name for f in report.facts}
    verify(workspace, report)
    readings = json.loads((workspace.folder(Stage.ENV, report.artifact_id) / "readings.json").read_bytes())
    assert all(reading["error"] is None for reading in readings.values())


def test_a_report_is_reused_while_it_is_young_and_at_no_cost(workspace: Workspace, events: list[Event]) -> None:
    first = check(profile(), workspace, BESIDE)
    started = time.perf_counter()

    assert check(profile(), workspace, BESIDE, events.append).artifact_id == first.artifact_id

    assert time.perf_counter() - started < 0.3
    assert [type(event) for event in events] == [StageReused]
    forced = open_workspace(workspace.root, frozenset({Stage.ENV}))
    assert check(profile(), forced, BESIDE).artifact_id != first.artifact_id


def test_another_role_another_student_and_a_higher_demand_are_looked_at_anew(workspace: Workspace) -> None:
    reports = [
        examine(profile(), workspace, BESIDE),
        examine(profile(), workspace, BESIDE, [Role.TRAINER]),
        examine(config.load("demo", {**_flat(profile()), "train.max_length": 64}), workspace, BESIDE),
        examine(profile(min_ram_gb=0.2), workspace, BESIDE),
    ]

    assert len({report.artifact_id for report in reports}) == 4
    assert set(reports[1].roles) == {Role.TRAINER}
    assert not any(finding.code in SLOW for report in reports for finding in report.findings)


def _flat(given: Profile) -> dict[str, Any]:
    return {f"env.{key}": value for key, value in given.env.model_dump(mode="json").items()}


def test_a_blocked_report_is_published_told_and_never_reused(
    workspace: Workspace, events: list[Event], tmp_path: Path
) -> None:
    blocking(tmp_path)

    with pytest.raises(BlockedByCheck) as caught:
        check(profile(), workspace, BESIDE, events.append)

    (report,) = artifacts(workspace, Stage.ENV)
    assert isinstance(report, EnvReport)
    assert not report.verdict.passed
    assert [event.finding for event in events if isinstance(event, Found)] == list(report.findings)
    assert report.findings[0].code == "cache"
    assert "Not a directory" in report.findings[0].evidence
    assert set(report.roles.values()) == {RoleVerdict.BLOCKED}
    assert caught.value.exit_status == 4
    assert caught.value.remedy == report.findings[0].remedy
    (tmp_path / "cache").unlink()
    assert check(profile(), workspace, BESIDE).verdict.passed


def test_several_failing_checks_are_told_in_one_error(workspace: Workspace, tmp_path: Path) -> None:
    blocking(tmp_path)

    with pytest.raises(BlockedByCheck, match=r"cache .*written there.*; ram .* GB usable <|ram .*; cache "):
        check(profile(min_ram_gb=1e6), workspace, BESIDE)


def test_a_machine_too_poor_to_train_is_healthy_as_a_board(workspace: Workspace) -> None:
    poor = profile(min_ram_gb=1e6, min_free_disk_gb=1e9)

    report = examine(poor, workspace, BESIDE, [Role.BOARD, Role.TRAINER])

    assert report.roles[Role.TRAINER] is RoleVerdict.BLOCKED
    assert report.roles[Role.BOARD] is RoleVerdict.HEALTHY
    assert examine(poor, workspace, BESIDE, [Role.BOARD]).verdict.passed


def test_a_probe_that_overruns_its_time_is_a_finding_and_the_rest_is_told(workspace: Workspace) -> None:
    report = examine(profile(probe_timeout_s=0.01), workspace, BESIDE)

    probes = [finding for finding in report.findings if finding.code == "probe"]
    assert {finding.severity for finding in probes} == {Severity.WARNING}
    assert "machine.system" in {finding.where for finding in probes}
    assert "ran > 0.01 s" in probes[0].evidence
    assert (
        examine(profile(probe_timeout_s=0.01, skip=[*_flat(profile())["env.skip"], "probe"]), workspace, BESIDE).findings
        == ()
    )


def test_only_what_the_answer_depends_on_has_the_machine_looked_at_again(workspace: Workspace) -> None:
    first = check(profile(), workspace, BESIDE)
    other = config.load("demo", {"bench.n_gen": 5, "train.learning_rate": 1e-3, "data.held_out_share": 0.3})
    asked = profile().model_copy(update={"bench": other.bench, "train": other.train, "data": other.data})
    assert check(asked, workspace, BESIDE) == first
    longer = asked.model_copy(update={"train": asked.train.model_copy(update={"max_length": 1024})})
    assert check(longer, workspace, BESIDE).artifact_id != first.artifact_id


def test_an_unknown_check_to_skip_stops_before_anything_is_written(workspace: Workspace) -> None:
    with pytest.raises(BadConfig, match="dsk") as caught:
        check(profile(skip=["dsk"]), workspace, BESIDE)

    assert "disk" in caught.value.remedy
    assert artifacts(workspace, Stage.ENV) == []
    refuse_unknown(OWN | {"probe"}, parts())


def test_no_two_parts_share_a_name_and_every_probe_is_named_after_its_part() -> None:
    names = [part.name for part in parts()]

    assert len(set(names)) == len(names)


def test_the_document_says_the_same_as_the_report_and_follows_the_published_schema(
    workspace: Workspace, tmp_path: Path
) -> None:
    import jsonschema

    blocking(tmp_path)
    report = examine(profile(), workspace, BESIDE)
    told = document(report, workspace)

    published = json.loads((ROOT / "configs/schemas/env-report.schema.json").read_bytes())
    assert published == json_schema()
    jsonschema.validate(json.loads(told.model_dump_json()), published)
    assert EnvDocument.model_validate_json(told.model_dump_json()) == told
    assert (told.schema_version, told.exit_status, told.verdict) == (1, 4, RoleVerdict.BLOCKED)
    assert told.findings == report.findings
    assert {probe.name for probe in told.probes} >= {"machine.system", "machine.places"}
    healthy = report.model_copy(update={"findings": ()})
    warned = report.model_copy(update={"findings": (report.findings[0].model_copy(update={"severity": Severity.WARNING}),)})
    assert [overall(healthy), overall(warned)] == [RoleVerdict.HEALTHY, RoleVerdict.WARNINGS]


@pytest.mark.parametrize(
    "name", ["EDGEKILN_CACHE", "HF_HOME", "HF_ENDPOINT", "PREFECT_API_URL", "https_proxy", "PATH", "CUDA_VISIBLE_DEVICES"]
)
def test_another_surrounding_is_looked_at_anew(
    name: str, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = examine(profile(), workspace, BESIDE)
    monkeypatch.setenv(name, str(tmp_path / "other"))

    assert examine(profile(), workspace, BESIDE).artifact_id != first.artifact_id


def test_a_secret_counts_by_being_set_and_a_runs_own_server_not_at_all(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config.load("demo", {**_flat(profile()), "alerts.url_envs": ["DESK"]})
    for name in ("DESK", "HF_TOKEN", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    seen = [examine(asked, workspace, BESIDE).artifact_id]
    for name, value in (("DESK", "one"), ("DESK", "two"), ("HF_TOKEN", "hf_x")):
        monkeypatch.setenv(name, value)
        seen.append(examine(asked, workspace, BESIDE).artifact_id)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4242/api")
    monkeypatch.setenv("EDGEKILN_PASSING_SERVER", "http://127.0.0.1:4242/api")
    seen.append(examine(asked, workspace, BESIDE).artifact_id)

    assert [seen.index(one) for one in seen] == [0, 1, 1, 3, 3]
