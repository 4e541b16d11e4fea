"""The catalogue of what a workspace has produced: its models, the files of each, their ancestry; as tables and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from core.compare.scoring import TASKS
from core.contract import Origin, utc
from core.produced import Produced, Speed
from core.report.charts import Chart, Record, scatter
from core.report.page import Page, Section
from core.report.quantisations import MEANING, all_files, figures, figures_columns, memory_told, percent, tasks_table
from core.report.table import Cell, Column, Table

_MIB = 1 << 20
_ID = Column(key="model", title="model")
_MODELS = (
    _ID,
    Column(key="title", title="name"),
    Column(key="profile", title="profile"),
    Column(key="made", title="made", optional=True),
    Column(key="base", title="base", optional=True),
    Column(key="teacher", title="teacher", optional=True),
    Column(key="dataset", title="dataset", optional=True),
    Column(key="files", title="files"),
    Column(key="state", title="state"),
    Column(key="published", title="published"),
)
_SPEED = Column(key="generation_tps", title="generation", unit="tokens/s", digits=1, align="right")
_SPEED_MEANING = "Generation: the newest measured speed on the first device it was measured on; all: `edgekiln models ID`."
_NOWHERE = "no"


def models_table(found: Sequence[Produced]) -> Table:
    """Return a row a model: what it is, what it came from, whether it is current, where it was published."""
    rows = tuple(
        (
            one.model.artifact_id,
            one.title,
            ", ".join(one.profiles) or None,
            utc(one.model.created_at),
            one.base.name,
            one.teacher.name if one.teacher else None,
            one.dataset_title,
            ", ".join(file.type for file in one.model.quantisations) or "none",
            _state(one),
            ", ".join(dict.fromkeys(told.to for told in one.published)) or _NOWHERE,
        )
        for one in found
    )
    return Table(title="Models of this workspace, newest first", columns=_MODELS, rows=rows, notes=_notes(found))


def _notes(found: Sequence[Produced]) -> tuple[str, ...]:
    if not found:
        return ("nothing was exported yet: edgekiln run, or edgekiln export",)
    return ("the models that others made, teachers and students: edgekiln models known",)


def _state(one: Produced) -> str:
    if one.current_for:
        return f"current for {', '.join(one.current_for)}"
    return "passed" if one.model.verdict.passed else "failed"


def files_table(found: Sequence[Produced]) -> Table:
    """Return a row a kept file of every model with what it is worth; a task that no model was asked has no column."""
    asked = {metric.partition(".")[0] for one in found for metric in one.model.metrics}
    tasks = [name for name in TASKS if name in asked]
    shares = (
        Column(key=name, title=name.replace("_", " "), unit="%", digits=1, align="right", optional=True) for name in tasks
    )
    rows: list[tuple[Cell, ...]] = [
        (
            one.model.artifact_id,
            *figures(file),
            *(percent(one.model.metrics.get(f"{name}.{file.type}")) for name in tasks),
            _generation(one.speeds, file.type),
        )
        for one in found
        for file in one.model.quantisations
    ]
    columns = (_ID, *figures_columns(), *shares, _SPEED)
    kept = [file for one in found for file in one.model.quantisations]
    return Table(
        title="Their files", columns=columns, rows=tuple(rows), notes=(MEANING, *memory_told(kept), _SPEED_MEANING)
    )


def _generation(speeds: Sequence[Speed], kind: str) -> float | None:
    """Return the measured speed at which a file writes; emulated and predicted ones are none."""
    for one in speeds:
        if one.quantisation == kind and one.test.startswith("tg") and one.origin is Origin.MEASURED:
            return one.median_tps
    return None


def model_tables(one: Produced) -> tuple[Table, ...]:
    """Return everything about one model: files, right answers, speeds, ancestry, publications."""
    tasks = tasks_table(one.model)
    made = [_files(one), *([tasks] if tasks else []), *([_speeds(one)] if one.speeds else []), _lineage(one)]
    return (*made, *([_published(one)] if one.published else []))


def _files(one: Produced) -> Table:
    columns = (*figures_columns(), Column(key="verdict", title="verdict"))
    kept: list[tuple[Cell, ...]] = [(*figures(file), "kept") for file in one.model.quantisations]
    out: list[tuple[Cell, ...]] = [
        (*figures(each.quantisation), "rejected: " + "; ".join(each.reasons)) for each in one.model.rejected
    ]
    return Table(
        title=_heading(one),
        columns=columns,
        rows=(*kept, *out),
        notes=(MEANING, *memory_told(all_files(one.model)), *_why(one)),
    )


def _why(one: Produced) -> tuple[str, ...]:
    return tuple(f"limit not met: {failure}" for failure in one.failures)


def _heading(one: Produced) -> str:
    return f"{one.title}, export {one.model.artifact_id}, {_state(one)}"


def _speeds(one: Produced) -> Table:
    columns = (
        Column(key="device", title="device"),
        Column(key="quantisation", title="type"),
        Column(key="test", title="test"),
        Column(key="median_tps", title="speed", unit="tokens/s", digits=1, align="right"),
        Column(key="origin", title="origin"),
        Column(key="bench", title="bench"),
        Column(key="measured_at", title="measured"),
    )
    rows = tuple(
        (each.device, each.quantisation, each.test, each.median_tps, each.origin.value, each.bench, utc(each.measured_at))
        for each in one.speeds
    )
    return Table(title="Speeds, the newest of each test", columns=columns, rows=rows)


def _lineage(one: Produced) -> Table:
    columns = (
        Column(key="stage", title="stage"),
        Column(key="artifact", title="artifact"),
        Column(key="made", title="made"),
        Column(key="what", title="what"),
    )
    dataset = f"dataset {one.dataset_title}" if one.dataset_title else ""
    told = {
        "label": f"teacher {one.teacher.name}" if one.teacher else "",
        "train": f"base {one.base.name}",
        "data": dataset,
    }
    rows: list[tuple[Cell, ...]] = [("export", one.model.artifact_id, utc(one.model.created_at), one.title)]
    for each in one.lineage:
        made = utc(each.created_at) if each.created_at else "not in this workspace"
        rows.append((each.stage.value, each.artifact_id, made, told.get(each.stage.value, "")))
    return Table(title="Made from", columns=columns, rows=tuple(rows), notes=(f"base: {one.base.identity}",))


def _published(one: Produced) -> Table:
    columns = (
        Column(key="to", title="to"),
        Column(key="at", title="at"),
        Column(key="revision", title="commit, or sha256 of its manifest"),
        Column(key="files", title="files", align="right"),
        Column(key="mib", title="size", unit="MiB", digits=1, align="right"),
    )
    rows = tuple(
        (
            told.to,
            utc(told.at),
            told.revision or told.manifest_sha256 or "none",
            len(told.files),
            sum(file.bytes for file in told.files) / _MIB,
        )
        for told in one.published
    )
    return Table(title="Published", columns=columns, rows=rows)


def produced_page(found: Sequence[Produced]) -> Page:
    """Return the catalogue as a page: all models, all files with a plot, then each model with its ancestry."""
    head = Section(heading="Models", tables=(models_table(found),))
    files = Section(heading="Files", tables=(files_table(found),), charts=tuple(_charts(found)))
    each = tuple(Section(heading=_heading(one), tables=model_tables(one)) for one in found)
    stands = [f"{one.title} ({one.model.artifact_id}) is {_state(one)}" for one in found if one.current_for]
    lead = f"{len(found)} models. " + (f"{'; '.join(stands)}." if stands else "None is current.")
    return Page(title="What this workspace has produced", lead=lead, sections=(head, files, *each))


def _charts(found: Sequence[Produced]) -> list[Chart]:
    records: list[Record] = [
        {
            "file": f"{one.model.artifact_id[:4]} {file.type}",
            "mib": file.bytes / _MIB,
            "kl": file.divergence.kl_mean,
        }
        for one in found
        for file in one.model.quantisations
        if file.divergence
    ]
    if len(records) < 2:
        return []
    caption = (
        "Each file by the beginning of its model's id. Further left is smaller, further down answers more like its model."
    )
    axes = {"x": ("mib", "size, MiB"), "y": ("kl", "nats a token")}
    return [scatter("KL divergence by size", caption, records, **axes, label=("file", "file"))]
