"""The commands that only look: status, runs, show, trace, models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.session import Common, answer, answer_table, drawn, tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.report.table import Cell, Table
    from core.runs import RunRecord
    from core.workspace import Workspace

_DEFAULT_COMMON = Common()
_DIGITS = {"mib": 3}


def status(*, common: Common = _DEFAULT_COMMON) -> None:
    """Show what lies in the workspace and which model is current."""
    from core.contract import Stage, utc
    from core.report.render import as_document
    from core.workspace import artifacts

    workspace = tree(common)
    found = [artifact for stage in Stage for artifact in artifacts(workspace, stage)]
    made = _table(
        f"Artifacts in {workspace.root}",
        {"stage": "stage", "artifact": "artifact", "created": "created", "verdict": "verdict", "mib": "MiB"},
        [
            (a.stage.value, a.artifact_id, utc(a.created_at), _verdict(a.verdict.passed), _mib([f.bytes for f in a.files]))
            for a in found
        ],
    )
    current = _current(workspace)
    document = {"artifacts": as_document(made), "current": as_document(current)}
    answer(common, document, drawn(made) + drawn(current))


def _current(workspace: Workspace) -> Table:
    from core.contract import utc
    from core.promote import current

    names = sorted(path.stem for path in (workspace.root / "current").glob("*.json") if path != workspace.journal)
    pointers = [pointer for name in names if (pointer := current(workspace, name))]
    return _table(
        "Current models",
        {"profile": "profile", "artifact": "artifact", "promoted": "promoted", "previous": "previous"},
        [(p.profile, p.artifact_id, utc(p.promoted_at), p.previous or "none") for p in pointers],
    )


def list_runs(*, common: Common = _DEFAULT_COMMON) -> None:
    """List the runs, newest first."""
    from core.contract import utc
    from core.runs import runs

    rows = [
        (run.run_id, run.profile, utc(run.started_at), run.status.value, len(run.artifacts), len(run.reused), _first(run))
        for run in runs(tree(common))
    ]
    titles = {"run": "run", "profile": "profile", "started": "started", "status": "status", "stages": "stages"}
    answer_table(common, _table("Runs", {**titles, "reused": "reused", "error": "error"}, rows))


def _first(run: RunRecord) -> str:
    return (run.error or "").partition("\n")[0]


def show(what: str, *, common: Common = _DEFAULT_COMMON) -> None:
    """Show an artifact or a run.

    Parameters
    ----------
    what
        An artifact's id or its beginning, or a run's id
    """
    from core.report.artifact import artifact_table
    from core.runs import runs
    from core.workspace import find, verify

    workspace = tree(common)
    if record := next((run for run in runs(workspace) if run.run_id == what), None):
        return _show_run(common, record, workspace)
    artifact = find(workspace, what)
    verify(workspace, artifact)
    folder = workspace.folder(artifact.stage, artifact.artifact_id)
    return answer(common, artifact.model_dump(mode="json"), drawn(artifact_table(artifact)) + f"  files: {folder}")


def _show_run(common: Common, record: RunRecord, workspace: Workspace) -> None:
    from core.contract import utc

    rows: list[tuple[str, ...]] = [
        ("profile", record.profile),
        ("started", utc(record.started_at)),
        ("finished", utc(record.finished_at) if record.finished_at else "not yet"),
        ("status", record.status.value),
        *((s.value, f"{a}{' (reused)' if s in record.reused else ''}") for s, a in record.artifacts.items()),
        *([("error", record.error)] if record.error else []),
        ("folder", str(workspace.run_folder(record.run_id))),
    ]
    table = _table(f"Run {record.run_id}", {"fact": "fact", "value": "value"}, rows)
    answer(common, record.model_dump(mode="json"), drawn(table))


def trace(what: str, *, common: Common = _DEFAULT_COMMON) -> None:
    """Show from what a result, an artifact or a run was made, back to the dataset and the tools.

    Parameters
    ----------
    what
        The id of a result, an artifact or a run, or its beginning
    """
    from core.trace import trace as lineage

    answer_table(common, lineage(tree(common), what))


def models(*, common: Common = _DEFAULT_COMMON) -> None:
    """List the teachers and students that are known: shipped, and your own cards."""
    from core import catalogue

    cards = [catalogue.model(name) for name in catalogue.names("models")]
    rows = [
        (
            card.name,
            ", ".join(card.roles),
            card.parameters,
            card.hidden_size,
            card.memory_mib,
            card.licence,
            card.source.kind,
        )
        for card in cards
    ]
    titles = {"name": "name", "roles": "roles", "parameters": "parameters", "hidden_size": "hidden size"}
    more = {"memory_mib": "memory MiB", "licence": "licence", "source": "source"}
    answer_table(common, _table("Models", titles | more, rows))


def _table(title: str, titles: dict[str, str], rows: Sequence[Sequence[Cell]]) -> Table:
    from core.report.table import Column, Table

    columns = tuple(Column(key=key, title=shown, digits=_DIGITS.get(key)) for key, shown in titles.items())
    return Table(title=title, columns=columns, rows=tuple(tuple(row) for row in rows))


def _verdict(passed: bool) -> str:
    return "passed" if passed else "failed"


def _mib(sizes: list[int]) -> float:
    return sum(sizes) / (1 << 20)
