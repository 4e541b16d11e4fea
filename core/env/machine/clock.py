"""Whether the clock can be right: against the package's own files, and against what a service says the time is."""

from __future__ import annotations

import http.client
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from core.contract import Contract, Finding, Severity, utc

_GRACE_S = 60.0  # a copy over the network may carry the writer's clock


class Clock(Contract):
    """The time here and the newest date of the package's own files; `service_s` is what a service said at `asked_s`."""

    now_s: float
    newest_file_s: float
    service: str | None = None
    service_s: float | None = None
    asked_s: float | None = None


class ServiceDate(Contract):
    """A service's Date header, None when it sent none, and the time here when it came; both in seconds since 1970."""

    service: str
    service_s: float | None
    asked_s: float


def newest_file_s(folder: Path) -> float:
    """Return the newest modification time of the Python files in a folder, 0 when there are none."""
    return max((path.stat().st_mtime for path in folder.glob("*.py")), default=0.0)


def read_date(argument: dict[str, Any]) -> ServiceDate:
    """Ask `url` for its Date header within `timeout_s`; any answer will do, and none is no news of the clock."""
    parts = urlsplit(argument["url"])
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=argument["timeout_s"])
    header = None
    try:
        connection.request("HEAD", parts.path or "/")
        header = connection.getresponse().getheader("Date")
    except (OSError, http.client.HTTPException):
        pass  # whether the service works is judged by the check of that service
    finally:
        connection.close()
    return ServiceDate(service=parts.netloc, service_s=date_s(header), asked_s=time.time())


def date_s(header: str | None) -> float | None:
    """Return an HTTP date in seconds since 1970, None when it is none."""
    try:
        return parsedate_to_datetime(header or "").timestamp()
    except (ValueError, OverflowError):
        return None


def clock_findings(now_s: float, newest_s: float, told: ServiceDate | None, tolerance_s: float) -> list[Finding]:
    """Judge the clock; a time before the package's own files were written is an error."""
    findings = []
    if now_s + _GRACE_S < newest_s:
        evidence = f"it says {_shown(now_s)}, files of this package were written at {_shown(newest_s)}"
        findings.append(_wrong("system clock", evidence, Severity.ERROR))
    if told is not None and told.service_s is not None and abs(told.asked_s - told.service_s) > tolerance_s:
        off_s = told.asked_s - told.service_s
        evidence = f"it is {off_s:+.0f} s off the Date of {told.service}, > env.clock_tolerance_s {tolerance_s:g}"
        findings.append(_wrong("system clock", evidence, Severity.WARNING))
    return findings


def board_clock_findings(board: str, board_s: float, here_s: float, tolerance_s: float) -> list[Finding]:
    """Judge a board's clock by this machine's."""
    if abs(board_s - here_s) <= tolerance_s:
        return []
    evidence = f"it is {board_s - here_s:+.0f} s off this machine's clock, > env.clock_tolerance_s {tolerance_s:g}"
    return [_wrong(f"{board}: clock", evidence, Severity.WARNING)]


def _wrong(where: str, evidence: str, severity: Severity) -> Finding:
    return Finding(
        code="clock",
        severity=severity,
        where=where,
        evidence=evidence,
        cause="no time service is running, or the machine has no battery for its clock",
        remedy="Set the clock: sudo timedatectl set-ntp true",
        remedy_argv=("sudo", "timedatectl", "set-ntp", "true"),
        verify_argv=("timedatectl",),
    )


def _shown(seconds: float) -> str:
    return utc(datetime.fromtimestamp(seconds, UTC))
