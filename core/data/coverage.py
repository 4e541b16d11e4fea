"""Labels over a whole corpus: tags, register, language. Counts them in bounded memory, tells what dominates or is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from core.contract import Contract, Finding, Severity
from core.data.limits import CoverageLimits

_VALUE_CHARS = 80
_TOLD = 5


class FieldCoverage(Contract):
    """One label field; `values` is None when it had more than the limit and so is free text, not a label."""

    field: str
    rows: int
    values: dict[str, int] | None


class Coverage:
    """Counts labels row by row; the order of the rows changes nothing."""

    def __init__(self, limits: CoverageLimits) -> None:
        self._limits = limits
        self._rows = 0
        self._labelled: Counter[str] = Counter()
        self._counts: dict[str, Counter[str]] = {}
        self._free: set[str] = set()

    def add(self, extra: Mapping[str, Any]) -> None:
        """Count one kept row by its fields; a list counts each of its values once."""
        self._rows += 1
        for field in self._limits.fields:
            if field in extra and (values := _values(extra[field])):
                self._labelled[field] += 1
                self._count(field, values)

    def _count(self, field: str, values: Iterable[str] | Mapping[str, int]) -> None:
        if field in self._free:
            return
        counts = self._counts.setdefault(field, Counter())
        counts.update(values)
        if len(counts) > self._limits.max_values:
            self._free.add(field)
            del self._counts[field]

    def __add__(self, other: Coverage) -> Coverage:
        """Return both together; the order changes nothing."""
        joined = Coverage(self._limits)
        joined._rows = self._rows + other._rows
        joined._labelled = self._labelled + other._labelled
        joined._free = self._free | other._free
        for part in (self, other):
            for field, counts in part._counts.items():
                joined._count(field, counts)
        return joined

    def fields(self) -> tuple[FieldCoverage, ...]:
        """Return what was counted, in the configured order, the commonest values first."""
        return tuple(
            FieldCoverage(field=field, rows=self._labelled[field], values=self._sorted(field))
            for field in self._limits.fields
            if self._labelled[field]
        )

    def _sorted(self, field: str) -> dict[str, int] | None:
        if field in self._free:
            return None
        return dict(sorted(self._counts[field].items(), key=lambda item: (-item[1], item[0])))

    def findings(self) -> tuple[Finding, ...]:
        """Return the warnings: one value dominates, rows without the label, values below their share."""
        counted = self.fields()
        judged = [field for field in counted if field.rows >= self._limits.min_rows]
        found = [self._dominant(field) for field in judged] + [self._unlabelled(field) for field in judged]
        return tuple([finding for finding in found if finding] + self._short())

    def _dominant(self, field: FieldCoverage) -> Finding | None:
        if field.field not in self._limits.balanced or not field.values:
            return None
        value, count = next(iter(field.values.items()))
        share, most = count / field.rows, self._limits.max_share
        if share <= most:
            return None
        return _finding(
            "data-label-imbalance",
            field.field,
            f"{count} of {field.rows} labelled rows, {share:.0%}, are {value!r} > data.coverage.max_share {most:.0%}",
            f"one value of {field.field} dominates, so the student hardly sees the others",
            f"Add rows with other values of {field.field}, or take {value!r} rows out.",
        )

    def _unlabelled(self, field: FieldCoverage) -> Finding | None:
        without, most = 1 - field.rows / self._rows, self._limits.max_unlabelled
        if without <= most:
            return None
        return _finding(
            "data-label-missing",
            field.field,
            f"{self._rows - field.rows} of {self._rows} rows, {without:.0%}, lack it > data.coverage.max_unlabelled {most:.0%}",
            f"some rows have {field.field}, most have not, so coverage by it says little",
            f"Label the others, or take {field.field} out of data.coverage.fields.",
        )

    def _short(self) -> list[Finding]:
        """Name every value that is rarer than asked, also one that never came."""
        short = []
        for field, wanted in sorted(self._limits.min_share.items()):
            counts = self._counts.get(field, Counter())
            lacking = {value: share for value, share in sorted(wanted.items()) if counts[value] < share * self._rows}
            if lacking and self._rows:
                told = "; ".join(_told(value, counts[value], self._rows, lacking[value]) for value in list(lacking)[:_TOLD])
                remedy = f"Add rows with {', '.join(list(lacking)[:_TOLD])}, or lower data.coverage.min_share.{field}."
                cause = f"{len(lacking)} values of {field} are below the share asked for"
                short.append(_finding("data-coverage-low", field, told, cause, remedy))
        return short


def _values(value: object) -> set[str]:
    if isinstance(value, str):
        return {value[:_VALUE_CHARS]} if value else set()
    if isinstance(value, bool | int):
        return {str(value)[:_VALUE_CHARS]}
    return {item[:_VALUE_CHARS] for item in value if isinstance(item, str) and item} if isinstance(value, list) else set()


def _told(value: str, count: int, rows: int, least: float) -> str:
    return f"{value!r} in {count} of {rows} rows, {count / rows:.1%} < {least:.1%}"


def _finding(code: str, field: str, evidence: str, cause: str, remedy: str) -> Finding:
    return Finding(code=code, severity=Severity.WARNING, where=field, evidence=evidence, cause=cause, remedy=remedy)
