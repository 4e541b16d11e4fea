"""An artifact as a table: what it is, its figures, its gate. Used by `show` and beside the tasks."""

from __future__ import annotations

import math

from core.contract import Artifact, utc
from core.promote import unmet
from core.report.table import Cell, Column, Table

_SHARED = set(Artifact.model_fields)


def artifact_table(artifact: Artifact) -> Table:
    """Return an artifact's facts as rows of name and value; long facts are counted, not listed."""
    rows: list[tuple[Cell, ...]] = [
        ("artifact", artifact.artifact_id),
        ("created", utc(artifact.created_at)),
        *_made_from(artifact),
        ("verdict", "passed" if artifact.verdict.passed else "failed"),
        *(("limit not met", reason) for reason in unmet(artifact)),
        *((name, _value(value)) for name, value in sorted(artifact.metrics.items())),
        *_own(artifact),
        ("files", len(artifact.files)),
        ("bytes", sum(ref.bytes for ref in artifact.files)),
    ]
    columns = (Column(key="fact", title="fact"), Column(key="value", title="value"))
    return Table(title=f"{artifact.stage.value} {artifact.artifact_id}", columns=columns, rows=tuple(rows))


def _made_from(artifact: Artifact) -> list[tuple[Cell, ...]]:
    """Return the artifacts this one was made from; a dataset has none, its sources are told among its own facts."""
    parents = ", ".join(f"{ref.stage.value} {ref.artifact_id}" for ref in artifact.parents)
    return [("made from", parents)] if parents else []


def _own(artifact: Artifact) -> list[tuple[Cell, ...]]:
    """Return the noun's own facts that are not among its metrics."""
    names = [name for name in type(artifact).model_fields if name not in _SHARED and name not in artifact.metrics]
    return [(name.replace("_", " "), _value(getattr(artifact, name))) for name in names]


def _value(value: object) -> Cell:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, tuple):
        return len(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(getattr(value, "name", None) or getattr(value, "fingerprint", None) or value)[:200]
