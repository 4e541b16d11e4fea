"""The commands that only look: status, runs, show, trace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.session import Common, answer, answer_table, drawn, shelf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.report.table import Cell, Table
    from core.runs import RunRecord
    from core.workspace import Workspace

_DEFAULT_COMMON = Common()
_DIGITS = {"mib": 1}
_OPTIONAL = {"previous", "started", "reused"}


def status(*, profile: str | None = None, common: Common = _DEFAULT_COMMON) -> None:
    """Show what lies in the workspace and which model is current.

    Parameters
    ----------
    profile
        Also ask the second home that this profile's section remote names
    """
    from core.contract import Stage, utc
    from core.report.render import as_document
    from core.workspace import artifacts, broken

    workspace = shelf(common)
    unreadable = broken(workspace)
    found = [artifact for stage in Stage for artifact in artifacts(workspace, stage)]
    made = _table(
        f"Artifacts in {workspace.root}",
        {"stage": "stage", "artifact": "artifact", "created": "created", "verdict": "verdict", "mib": "MiB"},
        [
            (a.stage.value, a.artifact_id, utc(a.created_at), _verdict(a.verdict.passed), _mib([f.bytes for f in a.files]))
            for a in found
        ]
        + [(stage.value, artifact_id, None, "broken", None) for stage, artifact_id in unreadable],
        [f"{error.problem}. {error.remedy}" for error in unreadable.values()],
    )
    current = _current(workspace)
    home = _second_home(profile, workspace) if profile else None
    shown = [made, current, *([home] if home else [])]
    document = {"artifacts": as_document(made), "current": as_document(current)}
    answer(common, document | ({"home": as_document(home)} if home else {}), "".join(map(drawn, shown)))


def _second_home(profile: str, workspace: Workspace) -> Table:
    from core import config
    from core.remote.standing import standing
    from core.remote.store import Store

    with Store(config.load(profile).remote) as store:
        found = standing(store, workspace)
    rows = [
        ("worked in by", found.held_by or "nobody"),
        *((f"{stage.value} artifacts", str(count)) for stage, count in found.artifacts.items()),
        ("not there yet", ", ".join(found.unsent) or "nothing"),
        *((f"{training}, newest checkpoint", f"step {step}") for training, step in found.checkpoints.items()),
        ("ledger segments", str(found.segments)),
    ]
    return _table(f"Second home {found.where}", {"fact": "fact", "value": "value"}, rows)


def _current(workspace: Workspace) -> Table:
    names = sorted(path.stem for path in (workspace.root / "current").glob("*.json") if path != workspace.journal)
    rows, notes = [], []
    for name in names:
        row, note = _pointer(workspace, name)
        rows.append(row)
        notes += [f"{name}: {note}"] if note else []
    titles = {"profile": "profile", "artifact": "artifact", "state": "state", "promoted": "promoted"}
    return _table("Current models", {**titles, "previous": "previous"}, rows, notes)


def _pointer(workspace: Workspace, name: str) -> tuple[tuple[Cell, ...], str]:
    """Return a profile's row, and what is wrong with its pointer, empty when nothing is."""
    from core.contract import Stage, utc
    from core.errors import ArtifactError
    from core.promote import current
    from core.workspace import MANIFEST

    try:
        pointer = current(workspace, name)
    except ArtifactError as error:
        return (name, None, "broken", None, None), f"{error.problem}. {error.remedy}"
    if pointer is None:
        return (name, None, "gone", None, None), ""
    there = (workspace.folder(Stage.EXPORT, pointer.artifact_id) / MANIFEST).is_file()
    why = (
        "" if there else f"export {pointer.artifact_id} is not in the workspace now; the profile's next run makes it again"
    )
    state = "there" if there else "missing"
    return (name, pointer.artifact_id, state, utc(pointer.promoted_at), pointer.previous or "none"), why


def list_runs(*, common: Common = _DEFAULT_COMMON) -> None:
    """List the runs, newest first."""
    from core.contract import utc
    from core.runs import standing

    rows = [
        (run.run_id, run.profile, utc(run.started_at), run.status.value, len(run.artifacts), len(run.reused), _first(run))
        for run in standing(shelf(common))
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
        The id of an artifact or a run, or its beginning
    """
    from core.contract import Artifact
    from core.errors import ArtifactMissing
    from core.report.artifact import artifact_table
    from core.runs import RunRecord
    from core.trace import resolve
    from core.workspace import verify

    workspace = shelf(common)
    found = resolve(workspace, what)
    if isinstance(found, RunRecord):
        return _show_run(common, found, workspace)
    if not isinstance(found, Artifact):
        raise ArtifactMissing(
            f"{what!r} is a result of bench {found.artifact_id}", remedy=f"See `edgekiln trace {found.result_id[:12]}`."
        )
    verify(workspace, found)
    folder = workspace.folder(found.stage, found.artifact_id)
    return answer(common, found.model_dump(mode="json"), drawn(artifact_table(found)) + f"  files: {folder}")


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

    answer_table(common, lineage(shelf(common), what))


def _table(title: str, titles: dict[str, str], rows: Sequence[Sequence[Cell]], notes: Sequence[str] = ()) -> Table:
    from core.report.table import Column, Table

    columns = tuple(
        Column(key=key, title=shown, digits=_DIGITS.get(key), optional=key in _OPTIONAL) for key, shown in titles.items()
    )
    return Table(title=title, columns=columns, rows=tuple(tuple(row) for row in rows), notes=tuple(notes))


def _verdict(passed: bool) -> str:
    return "passed" if passed else "failed"


def _mib(sizes: list[int]) -> float:
    return sum(sizes) / (1 << 20)
