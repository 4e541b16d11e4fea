"""What was found in rows, counted by code with the first place of each; the files that list them are bounded for warnings."""

from __future__ import annotations

import json
from collections import Counter
from typing import TextIO

from core.contract import Finding, Severity
from core.data.record import Reject


class FlawLog:
    """Takes flaws in the order of the rows and writes them down as they come, of each code at most `listed`."""

    def __init__(self, stream: TextIO, severity: Severity, listed: int | None = None) -> None:
        self._stream = stream
        self._severity = severity
        self._listed = listed
        self._first: dict[str, Reject] = {}
        self.counts: Counter[str] = Counter()

    def add(self, flaw: Reject) -> None:
        """Count one and write it down."""
        self.counts[flaw.code] += 1
        self._first.setdefault(flaw.code, flaw)
        if self._listed is None or self.counts[flaw.code] <= self._listed:
            self._stream.write(json.dumps(flaw.model_dump(mode="json"), ensure_ascii=False) + "\n")

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding a code, the commonest first."""
        counted = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return tuple(self._finding(code, count) for code, count in counted)

    def remedies(self) -> dict[str, str]:
        """Return what to do about each code."""
        return {code: first.remedy for code, first in self._first.items()}

    def _finding(self, code: str, count: int) -> Finding:
        first = self._first[code]
        what = "set aside" if self._severity is Severity.ERROR else "kept with a warning"
        rows = f"1 row was {what}" if count == 1 else f"{count} rows were {what}, here the first"
        return Finding(
            code=f"data-{code}",
            severity=first.severity,
            where=first.where,
            evidence=f"{rows}: {first.excerpt}",
            cause=first.reason,
            remedy=first.remedy,
        )
