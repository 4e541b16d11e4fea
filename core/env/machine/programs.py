"""The programs that building llama.cpp needs, and whether it is built already."""

from __future__ import annotations

from typing import Any

from core import toolchain, toolchain_build
from core.contract import Confidence, Contract, Finding, Severity
from core.errors import ToolMissing


class Programs(Contract):
    """The finished toolchain's identity, or what is missing to build it with the sentence that mends it."""

    built: str | None
    missing: str | None
    remedy: str | None


def read(_argument: dict[str, Any]) -> Programs:
    """Look for the toolchain, and for the compiler set where there is none."""
    if (found := toolchain.find()) is not None:
        return Programs(built=found.identity(), missing=None, remedy=None)
    try:
        toolchain_build.require_programs()
    except ToolMissing as error:
        return Programs(built=None, missing=error.problem, remedy=error.remedy)
    return Programs(built=None, missing=None, remedy=None)


def programs_findings(found: Programs) -> list[Finding]:
    """Tell which programs are missing."""
    if found.missing is None:
        return []
    return [
        Finding(
            code="programs",
            severity=Severity.ERROR,
            where="PATH",
            evidence=found.missing,
            cause="llama.cpp is not built here yet and the compiler set is not complete",
            confidence=Confidence.HIGH,
            remedy=found.remedy or "",
            verify_argv=("edgekiln", "toolchain", "build"),
        )
    ]
