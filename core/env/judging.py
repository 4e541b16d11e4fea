"""From findings to verdicts: which roles a finding touches, what it is for each, and whether a role can be done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.contract import Confidence, Finding, Severity
from core.env.capability import Check, Context
from core.env.probe import Reading
from core.env.roles import Role, RoleVerdict, in_order

PROBE = "probe"
_WORST = (Severity.ERROR, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True)
class Judged:
    """A finding with the roles it touches here, and how much it matters to each."""

    finding: Finding
    severities: Mapping[Role, Severity]


def relate(finding: Finding, check: Check, context: Context) -> Judged | None:
    """Return what a finding is for the roles that are judged, None when it concerns none of them."""
    roles = touched(check, context)
    if finding.roles:
        roles &= {Role(role) for role in finding.roles}
    if not roles:
        return None
    severities = {role: _for_role(finding.severity, role in check.blocks) for role in in_order(roles)}
    worst = next(severity for severity in _WORST if severity in severities.values())
    return Judged(finding.model_copy(update={"severity": worst, "roles": tuple(severities)}), severities)


def touched(check: Check, context: Context) -> frozenset[Role]:
    """Return the judged roles a check is about: a board that lies elsewhere is no matter of this machine's checks."""
    roles = context.roles & check.roles
    return roles - {Role.BOARD} if context.remote_board is not None and not check.remote else roles


def _for_role(severity: Severity, blocks: bool) -> Severity:
    return Severity.WARNING if severity is Severity.ERROR and not blocks else severity


def verdicts(roles: Iterable[Role], judged: Sequence[Judged]) -> dict[Role, RoleVerdict]:
    """Return the verdict on each role: blocked by an error, warnings by a warning, else healthy."""
    return {role: _verdict({each.severities.get(role) for each in judged}) for role in in_order(roles)}


def _verdict(severities: set[Severity | None]) -> RoleVerdict:
    if Severity.ERROR in severities:
        return RoleVerdict.BLOCKED
    return RoleVerdict.WARNINGS if Severity.WARNING in severities else RoleVerdict.HEALTHY


def probe_findings(readings: Mapping[str, Reading], told: Sequence[Finding]) -> list[Finding]:
    """Return a warning for each probe that failed, unless a finding already carries its evidence."""
    evidence = "\n".join(finding.evidence for finding in told)
    failed = (reading for reading in readings.values() if reading.error and reading.error not in evidence)
    return [_failed(reading) for reading in failed]


def _failed(reading: Reading) -> Finding:
    error = reading.error or ""
    return Finding(
        code=PROBE,
        severity=Severity.WARNING,
        where=reading.name,
        evidence=error,
        cause=_cause(error),
        confidence=Confidence.LOW,
        remedy="What this probe reads is unknown. Mend what the evidence names, then look again.",
        verify_argv=("edgekiln", "env", "--no-cache"),
    )


def _cause(error: str) -> str:
    if "ran >" in error:
        return "what it asks hangs: a driver, a mount or a service that does not answer"
    if "signal" in error:
        return "a library crashed the process: a broken or mismatched build, or too little memory"
    if "PermissionError" in error or "Operation not permitted" in error:
        return "it needs rights this user does not have"
    return "what it reads is not as it should be"
