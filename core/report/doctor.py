"""The doctor's answer for people: tables of roles, findings and facts, and the page that holds them."""

from __future__ import annotations

import shlex

from core.contract import Finding, utc
from core.env.document import EnvDocument
from core.env.roles import RoleVerdict
from core.report.page import Page, Section
from core.report.table import Column, Table

_LEADS = {
    RoleVerdict.HEALTHY: "This machine can do the job.",
    RoleVerdict.WARNINGS: "This machine can do the job; read the warnings.",
    RoleVerdict.BLOCKED: "This machine cannot do the job as it is.",
}


def _columns(*titles: str) -> tuple[Column, ...]:
    return tuple(Column(key=title.replace(" ", "_"), title=title) for title in titles)


def roles_table(told: EnvDocument) -> Table:
    """Return the verdict on each role."""
    rows = tuple((role.value, verdict.value) for role, verdict in told.roles.items())
    return Table(title="Roles", columns=_columns("role", "verdict"), rows=rows, notes=(_LEADS[told.verdict],))


def facts_table(told: EnvDocument) -> Table:
    """Return what the machine is, with the source of each line."""
    rows = tuple((fact.name, f"{fact.value} [{fact.source}]") for fact in told.facts)
    return Table(title="This machine", columns=_columns("fact", "value [read from]"), rows=rows)


def findings_table(told: EnvDocument) -> Table:
    """Return the findings, the worst first, with evidence and remedy."""
    rows = tuple((f.severity.value, f.code, _told(f)) for f in told.findings)
    return Table(
        title=f"Findings: {len(rows)}", columns=_columns("severity", "check", "what, why, and what to do"), rows=rows
    )


def _told(finding: Finding) -> str:
    explains = [f"explains: {', '.join(finding.symptoms)}"] if finding.symptoms else []
    return "\n".join([f"{finding.where}: {finding.evidence}", *explains, _cause(finding), f"Fix: {finding.remedy}"])


def _cause(finding: Finding) -> str:
    return f"cause: {finding.cause}{f' ({finding.confidence.value} confidence)' if finding.confidence else ''}"


def rows_table(told: EnvDocument) -> Table:
    """Return every finding with all its fields as one row, for a spreadsheet."""
    keys = (
        "severity",
        "check",
        "roles",
        "where",
        "evidence",
        "cause",
        "confidence",
        "remedy",
        "command",
        "verify",
        "symptoms",
    )
    rows = tuple(
        (
            f.severity.value,
            f.code,
            " ".join(f.roles),
            f.where,
            f.evidence,
            f.cause,
            f.confidence.value if f.confidence else "",
            f.remedy,
            shlex.join(f.remedy_argv),
            shlex.join(f.verify_argv),
            " ".join(f.symptoms),
        )
        for f in told.findings
    )
    return Table(title="Findings", columns=_columns(*keys), rows=rows)


def doctor_page(told: EnvDocument) -> Page:
    """Return the answer as a page: what to do first, what was found, what the machine is."""
    facts = (("host", told.host.fingerprint), ("examined", utc(told.created_at)), ("report", told.report))
    sections = [Section(heading="Roles", tables=(roles_table(told),))]
    sections += [_finding_section(finding) for finding in told.findings]
    return Page(
        title="edgekiln: what this machine can do",
        lead=_LEADS[told.verdict],
        tone="bad" if told.verdict is RoleVerdict.BLOCKED else "good",
        facts=facts,
        sections=(*sections, Section(heading="This machine", tables=(facts_table(told),))),
    )


def _finding_section(finding: Finding) -> Section:
    commands = [shlex.join(argv) for argv in (finding.remedy_argv, finding.verify_argv) if argv]
    told = (f"{finding.where}: {finding.evidence}", _cause(finding).capitalize(), f"Fix: {finding.remedy}")
    heading = f"{finding.severity.value.capitalize()}: {finding.code}"
    symptoms = (f"It explains: {', '.join(finding.symptoms)}",) if finding.symptoms else ()
    return Section(heading=heading, text=(*told, *symptoms), code="\n".join(commands))
