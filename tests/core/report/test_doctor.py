"""The doctor's answer for people: every finding with its remedy in every form, hostile text included."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest

from core.contract import Confidence, Finding, Severity
from core.env.document import EnvDocument, ProbeTime
from core.env.roles import Role, RoleVerdict
from core.nouns import Fact, HostFacts
from core.report.doctor import doctor_page, facts_table, findings_table, roles_table, rows_table
from core.report.page import page_html
from core.report.render import render

DRIVER = Finding(
    code="driver",
    severity=Severity.ERROR,
    where="GPU 0",
    evidence="driver 470 < 525 <script>alert(1)</script>",
    cause="it is too old",
    remedy="Install a newer driver.",
    confidence=Confidence.HIGH,
    remedy_argv=("sudo", "apt-get", "install", "nvidia driver"),
    verify_argv=("nvidia-smi",),
    roles=("trainer",),
    symptoms=("torch-cuda", "bitsandbytes"),
)
PLAIN = DRIVER.model_copy(
    update={"severity": Severity.INFO, "confidence": None, "remedy_argv": (), "verify_argv": (), "symptoms": ()}
)


@pytest.fixture
def told() -> EnvDocument:
    return EnvDocument(
        edgekiln="0.1.0",
        report="0" * 12,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        verdict=RoleVerdict.BLOCKED,
        exit_status=4,
        roles={Role.TRAINER: RoleVerdict.BLOCKED, Role.BOARD: RoleVerdict.HEALTHY},
        host=HostFacts(
            fingerprint="f" * 16,
            arch="x86_64",
            os="Linux",
            cpu_model=None,
            cpu_features=(),
            cpus_usable=1,
            ram_bytes=None,
            ram_limit_bytes=None,
        ),
        findings=(DRIVER, PLAIN),
        facts=(Fact(name="processor", value="=cmd|calc", source="/proc/cpuinfo"),),
        probes=(ProbeTime(name="machine.system", seconds=0.5, error=None),),
        tools={},
    )


def test_the_terminal_shows_evidence_cause_and_remedy_of_each_finding(told: EnvDocument) -> None:
    text = render(findings_table(told), "text")

    for wanted in ("driver 470 < 525", "explains: torch-cuda, bitsandbytes", "it is too old (high", "Fix: Install a newer"):
        assert wanted in text
    assert "cannot do the job" in render(roles_table(told), "text")
    assert "/proc/cpuinfo" in render(facts_table(told), "text")


def test_the_spreadsheet_has_one_row_a_finding_and_commands_that_can_be_pasted(told: EnvDocument) -> None:
    first, second = csv.DictReader(io.StringIO(render(rows_table(told), "csv")))

    assert first["command"] == "sudo apt-get install 'nvidia driver'"
    assert first["symptoms"] == "torch-cuda bitsandbytes"
    assert (second["command"], second["confidence"]) == ("", "")


def test_the_page_holds_everything_escapes_it_and_needs_no_network(told: EnvDocument) -> None:
    html = page_html(doctor_page(told))

    for wanted in ("driver 470", "Install a newer driver.", "nvidia-smi", "It explains: torch-cuda", "cannot do the job"):
        assert wanted in html
    assert "<script>alert" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert 'class="lead bad"' in html
    healthy = told.model_copy(update={"verdict": RoleVerdict.HEALTHY, "findings": ()})
    assert 'class="lead good"' in page_html(doctor_page(healthy))
