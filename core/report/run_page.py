"""A run's page: what ran, what came out, how training went, what was noticed, and what to do next."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from core.contract import CHAIN, Artifact, Finding, Stage, utc
from core.errors import ArtifactError
from core.files import read_json_lines, write_atomic
from core.nouns import NOUNS, Adapter, BenchmarkRun, Dataset, EnvReport, GgufModel, IngestReceipt, SearchReport
from core.report import charts
from core.report.charts import Chart
from core.report.closing import MIB, closing_table, speed, verdict_of
from core.report.page import Page, Section, page_html
from core.report.search import PAGE, TRIALS, read_trials, trials_table
from core.report.table import Cell, Column, Table
from core.runs import RunRecord, RunStatus
from core.search.winner import WINNER
from core.workspace import Workspace, read_manifest

N = TypeVar("N", bound=Artifact)
_USERINFO = re.compile(r"://[^/@\s\"]+@")


def write_run_page(workspace: Workspace, record: RunRecord) -> Path:
    """Write `runs/<id>/index.html` for a run in any state and return its path."""
    path = workspace.run_folder(record.run_id) / "index.html"
    write_atomic(path, page_html(run_page(workspace, record)).encode())
    return path


def run_page(workspace: Workspace, record: RunRecord) -> Page:
    """Return a run's page; an artifact that is gone or broken is said to be, and the rest is shown."""
    made = _Made(workspace, record)
    finished = record.status is RunStatus.FINISHED
    sections = (
        *_closing(workspace, made),
        Section(heading="Stages", tables=(_stages(record, made),)),
        *_training(workspace, made),
        *_search(workspace, made),
        *_findings(made),
        Section(heading="Next", code=_next(workspace, record, made)),
        Section(heading="Configuration", folded=without_userinfo(json.dumps(record.config, indent=1, ensure_ascii=False))),
    )
    return Page(
        title=f"{record.profile}, run {record.run_id}",
        lead=record.error or f"The run is {record.status.value}.",
        tone="good" if finished else "bad" if record.error else "plain",
        facts=tuple(_facts(record)),
        sections=sections,
    )


def without_userinfo(text: str) -> str:
    """Blank the user and password part of every URL in a text."""
    return _USERINFO.sub("://***@", text)


class _Made:
    """A run's artifacts by their sealed manifests, and why the others cannot be shown; the stages verified the files."""

    def __init__(self, workspace: Workspace, record: RunRecord) -> None:
        self.found: dict[Stage, Artifact] = {}
        self.lost: dict[Stage, str] = {}
        for stage, artifact_id in record.artifacts.items():
            try:
                self.found[stage] = read_manifest(workspace, stage, artifact_id, NOUNS[stage])
            except ArtifactError as error:
                self.lost[stage] = error.problem

    def of(self, noun: type[N]) -> N | None:
        return next((artifact for artifact in self.found.values() if isinstance(artifact, noun)), None)


def _facts(record: RunRecord) -> Iterable[tuple[str, str]]:
    yield "profile", record.profile
    yield "started", utc(record.started_at)
    if record.finished_at:
        yield "finished", utc(record.finished_at)
        yield "took", f"{(record.finished_at - record.started_at).total_seconds():.0f} s"


def _closing(workspace: Workspace, made: _Made) -> Iterable[Section]:
    gguf, run = made.of(GgufModel), made.of(BenchmarkRun)
    if gguf and run:
        chart = speed_against_size(gguf, run)
        yield Section(
            heading="What came out", tables=(closing_table(workspace, gguf, run),), charts=(chart,) if chart else ()
        )


def speed_against_size(gguf: GgufModel, run: BenchmarkRun) -> Chart | None:
    """Return generation speed against file size, None when nothing was measured."""
    speeds = {file.type: speed(run, file.type, prompt=False) for file in gguf.quantisations}
    records = [
        {"quantisation": file.type, "size_mib": file.bytes / MIB, "tg_tps": found.median_tps, "origin": found.origin.value}
        for file in gguf.quantisations
        if (found := speeds[file.type]) is not None and found.median_tps is not None
    ]
    if not records:
        return None
    origins = ", ".join(sorted({str(record["origin"]) for record in records}))
    return charts.scatter(
        "Generation speed against size",
        f"Up and left is better. Median over all samples of bench {run.artifact_id} on {run.device}; {origins}.",
        records,
        x=("size_mib", "file size [MiB]"),
        y=("tg_tps", "generation [tokens/s]"),
        label=("quantisation", "quantisation"),
    )


def _stages(record: RunRecord, made: _Made) -> Table:
    columns = (
        Column(key="stage", title="stage"),
        Column(key="artifact", title="artifact"),
        Column(key="how", title="this run"),
        Column(key="made_at", title="made at"),
        Column(key="verdict", title="verdict"),
        Column(key="size_mib", title="files", unit="MiB", digits=2, align="right"),
        Column(key="figures", title="figures"),
    )
    rows: list[tuple[Cell, ...]] = []
    for stage in CHAIN:
        artifact_id = record.artifacts.get(stage)
        how = None if artifact_id is None else "reused" if stage in record.reused else "made"
        artifact = made.found.get(stage)
        if artifact is None:
            rows.append((stage.value, artifact_id, how, None, made.lost.get(stage, "not reached"), None, ""))
            continue
        verdict = verdict_of(artifact)
        size = sum(file.bytes for file in artifact.files) / MIB
        figures = ", ".join(f"{name} {value:.6g}" for name, value in sorted(artifact.metrics.items()))
        rows.append((stage.value, artifact_id, how, utc(artifact.created_at), verdict, size, figures))
    return Table(title="The seven stages, in order", columns=columns, rows=tuple(rows))


def _training(workspace: Workspace, made: _Made) -> Iterable[Section]:
    adapter = made.of(Adapter)
    if adapter is None:
        return
    loss = (
        f"Held-out loss {adapter.base_held_out_loss:.4f} before, {adapter.held_out_loss:.4f} after {adapter.steps} steps."
    )
    resumed = f" Resumed from step {', '.join(map(str, adapter.resumed_from_steps))}." if adapter.resumed_from_steps else ""
    chart = training_loss(workspace, adapter)
    yield Section(heading="Training", text=(loss + resumed,), charts=(chart,) if chart else ())


def training_loss(workspace: Workspace, adapter: Adapter) -> Chart | None:
    """Return the loss of every optimiser step, None when the adapter recorded none."""
    path = workspace.folder(Stage.TRAIN, adapter.artifact_id) / "steps.jsonl"
    records: list[dict[str, Any]] = list(read_json_lines(path)) if path.is_file() else []
    points = [{"step": record["step"], "loss": record["loss"]} for record in records if record.get("loss") is not None]
    if not points:
        return None
    caption = f"Mean over each step's batches, from steps.jsonl of train {adapter.artifact_id}."
    axes = {"x": ("step", "optimiser step"), "y": ("loss", "loss [nats per completion token]")}
    return charts.line("Training loss", caption, points, **axes)


def _search(workspace: Workspace, made: _Made) -> Iterable[Section]:
    report = made.of(SearchReport)
    if report is None:
        return
    folder = workspace.folder(Stage.SEARCH, report.artifact_id)
    best = f"Trial {report.best_trial} is the best: held-out loss {report.held_out_loss:.4f}"
    told = f"{best}, before training {report.base_held_out_loss:.4f}. Its page with the charts is {folder / PAGE}."
    there = (folder / TRIALS).is_file()
    tables = (trials_table(read_trials(folder), f"Trials of search {report.artifact_id}"),) if there else ()
    yield Section(heading="Search", text=(told,), tables=tables)


def _findings(made: _Made) -> Iterable[Section]:
    found: list[tuple[Stage, Finding]] = []
    for artifact in made.found.values():
        if isinstance(artifact, EnvReport | Dataset):
            found += [(artifact.stage, finding) for finding in artifact.findings]
    if not found:
        return
    names = ("severity", "stage", "code", "where", "evidence", "cause", "remedy")
    rows = tuple(
        (f.severity.value, stage.value, f.code, f.where, without_userinfo(f.evidence), f.cause, f.remedy)
        for stage, f in found
    )
    table = Table(title="What was noticed", columns=tuple(Column(key=name, title=name) for name in names), rows=rows)
    yield Section(heading="Findings", tables=(table,))


def _next(workspace: Workspace, record: RunRecord, made: _Made) -> str:
    receipt = made.of(IngestReceipt)
    if record.status is RunStatus.FINISHED and receipt and receipt.result_ids:
        return f"edgekiln trace {receipt.result_ids[0][:12]}"
    again = ["edgekiln", "run", "--profile", record.started_with or record.profile]
    if report := made.of(SearchReport):
        again += ["--set", str(workspace.folder(Stage.SEARCH, report.artifact_id) / WINNER)]
    return shlex.join(again)
