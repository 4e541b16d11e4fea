"""What `edgekiln env` tells of the object store: tried out on a real one, and each trouble is a finding with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import config
from core.contract import Finding
from core.env.capability import Context
from core.env.causes import group
from core.env.probe import Reading, run_probes
from core.env.roles import Role
from core.env.services.capability import CAPABILITY
from core.env.services.object_store import read
from tests.core.remote.conftest import KEY, SECRET_KEY, Place
from tests.core.remote.proxy import Proxy


def context(place: Place, folder: Path, port: int | None = None, seconds: float = 5.0, **more: object) -> Context:
    told = {**place.config(port).model_dump(exclude_defaults=True), **more}
    profile = config.load(
        "demo", {f"remote.{name}": value for name, value in told.items()} | {"env.probe_timeout_s": seconds}
    )
    return Context(profile, folder, frozenset({Role.TRAINER}), folder, folder)


def look(here: Context) -> tuple[list[Finding], dict[str, Reading]]:
    """Read as the child does, without the second it takes to start one."""
    (probe,) = [probe for probe in CAPABILITY.probes(here) if probe.name == "services.remote"]
    reading = Reading(name=probe.name, value=read(probe.argument).model_dump(mode="json"), error=None, seconds=0.1)
    return CAPABILITY.findings({probe.name: reading}, here), {probe.name: reading}


def test_a_store_that_does_all_it_must_is_a_fact_and_no_finding(place: Place, tmp_path: Path) -> None:
    here = context(place, tmp_path)
    found, readings = look(here)
    assert found == []
    (fact,) = [fact for fact in CAPABILITY.facts(readings, here) if fact.name == "object store"]
    assert "checks SHA-256" in fact.value
    assert place.names() == []


def test_a_profile_without_a_store_asks_none(tmp_path: Path) -> None:
    here = Context(config.load("demo"), tmp_path, frozenset({Role.TRAINER}), tmp_path, tmp_path)
    assert "services.remote" not in [probe.name for probe in CAPABILITY.probes(here)]


def test_the_check_runs_in_a_child_and_tells_no_key(place: Place, tmp_path: Path) -> None:
    here = context(place, tmp_path, url="s3://nobody-made-this/x")
    probes = [probe for probe in CAPABILITY.probes(here) if probe.name == "services.remote"]
    readings = run_probes(probes, tmp_path / "scratch")
    (finding,) = CAPABILITY.findings(readings, here)
    assert "service-remote-no-bucket" in finding.evidence
    assert finding.remedy == "Create the bucket, or mend remote.url."
    told = finding.model_dump_json() + readings["services.remote"].model_dump_json()
    assert KEY not in told
    assert SECRET_KEY not in told


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_store_that_cannot_hold_a_lock_is_a_finding(place: Place, tmp_path: Path, conditions: str) -> None:
    place.manners.conditions = conditions
    (finding,) = look(context(place, tmp_path))[0]
    assert finding.code == "remote"
    assert "holds no lock" in finding.cause
    assert "If-None-Match" in finding.remedy


def test_a_store_out_of_reach_or_silent_or_without_its_key_is_a_finding(
    place: Place, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = context(place, tmp_path, proxy.port, seconds=1.0)
    proxy.faults.refuse = True
    assert "service-remote-unreachable" in look(here)[0][0].evidence
    proxy.faults.refuse, proxy.faults.silent = False, True
    assert "service-remote-slow" in look(here)[0][0].evidence
    monkeypatch.delenv("STORE_SECRET")
    (finding,) = look(here)[0]
    assert "STORE_SECRET is not set" in finding.evidence
    assert finding.remedy == "Set it: export STORE_SECRET=..."


def test_a_lost_network_explains_the_store(place: Place, tmp_path: Path) -> None:
    here = context(place, tmp_path, endpoint_url="http://store.invalid")
    (finding,) = look(here)[0]
    network = Finding(
        code="network", severity=finding.severity, where="network", evidence="none", cause="no network", remedy="Mend it."
    )
    assert [each.code for each in group([finding, network])] == ["network"]
