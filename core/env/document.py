"""The doctor's answer as one JSON document; its schema is published in configs/schemas/env-report.schema.json."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import AwareDatetime

from core import __version__
from core.contract import Contract, Finding, Severity
from core.env.probe import Reading
from core.env.roles import Role, RoleVerdict
from core.nouns import EnvReport, Fact, HostFacts
from core.workspace import Workspace

SCHEMA_VERSION: Literal[1] = 1


class ProbeTime(Contract):
    """How long a probe took, and why it failed if it did."""

    name: str
    seconds: float
    error: str | None


class EnvDocument(Contract):
    """What a machine is and whether it can do the roles that were judged.

    `schema_version` rises with every change that a reader of an older version would not understand. `exit_status` is the
    command's without --strict.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    edgekiln: str
    report: str
    created_at: AwareDatetime
    verdict: RoleVerdict
    exit_status: Literal[0, 4]
    roles: dict[Role, RoleVerdict]
    host: HostFacts
    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    probes: tuple[ProbeTime, ...]
    tools: dict[str, str]


def document(report: EnvReport, workspace: Workspace) -> EnvDocument:
    """Return a published report as the document."""
    path = workspace.folder(report.stage, report.artifact_id) / "readings.json"
    readings = [Reading.model_validate(value) for value in json.loads(path.read_bytes()).values()]
    verdict = overall(report)
    return EnvDocument(
        edgekiln=__version__,
        report=report.artifact_id,
        created_at=report.created_at,
        verdict=verdict,
        exit_status=4 if verdict is RoleVerdict.BLOCKED else 0,
        roles=report.roles,
        host=report.host,
        findings=report.findings,
        facts=report.facts,
        probes=tuple(ProbeTime(name=r.name, seconds=round(r.seconds, 3), error=r.error) for r in readings),
        tools=report.tools,
    )


def overall(report: EnvReport) -> RoleVerdict:
    """Return the worst of what was found."""
    severities = {finding.severity for finding in report.findings}
    if Severity.ERROR in severities:
        return RoleVerdict.BLOCKED
    return RoleVerdict.WARNINGS if Severity.WARNING in severities else RoleVerdict.HEALTHY


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the document."""
    return EnvDocument.model_json_schema(mode="serialization")
