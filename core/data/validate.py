"""The data stage: sources to a Dataset of rows worth training on, what was found beside them, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import TextIO

from core.config import DataConfig
from core.contract import Finding, Limit, Severity, Stage
from core.data import docs, privacy_audit, rows_file
from core.data.card import FILE, README, card_of, describe
from core.data.crew import open_crew
from core.data.decisions import DROPPED, Decision, digest, read_decisions
from core.data.evaluation import Evaluation, Quotable
from core.data.flaw_log import FlawLog
from core.data.judging import Settings, Totals
from core.data.name_finders import load_name_finder
from core.data.privacy import PrivacyReport, joined
from core.data.quality import Worst
from core.data.readers import Source, open_sources
from core.data.rule_plugins import GROUP
from core.data.settling import Settlement
from core.data.statistics import Statistics
from core.data.streaming import Intake, Logs
from core.data.student import identity, not_at_hand
from core.data.token_rules import Student
from core.errors import BrokenRecord, NoRowsLeft
from core.events import Found, Note, OnEvent, ignore
from core.files import digest_of, write_atomic, write_json_lines
from core.nouns import Dataset
from core.report.card_markdown import write_card
from core.stage import Facts, Order, produce
from core.workspace import Workspace

_VERSION = 4
_WORST_SHOWN = 3
_RULES_SHOWN = 10
_WORTH_WORKERS_BYTES = 8_000_000  # a worker takes half a second to start, in which this process judges as much
_WORKERS = 2
_WITHOUT_MEANING = frozenset(
    {"rejects.jsonl", "warnings.jsonl", "worst.jsonl", "clusters.jsonl", privacy_audit.REPORT, FILE, README}
)


def validate(
    config: DataConfig, workspace: Workspace, on_event: OnEvent = ignore, student: Student | None = None
) -> Dataset:
    """Read the sources and publish the rows worth training on, with those set aside beside them.

    With a `student` rows are also judged by what its template and its longest chat leave of them. The dataset's identity
    is the sources' bytes, whatever their names and order. SourceMissing, SourceEmpty, NotUtf8;
    after publishing, NoRowsLeft or BrokenRecord when too few rows are left or too many were set aside.
    """
    sources = open_sources(config.sources, config.builtin_rows)
    evaluation = open_sources(config.evaluation_files, config.builtin_rows)
    decisions = read_decisions(workspace.decisions)
    load_name_finder(config.privacy)  # what is missing is told before the sources are read
    order = Order(
        noun=Dataset,
        stage=Stage.DATA,
        version=_VERSION,
        config=config,
        inputs=(*(source.sha256 for source in sources), *digest(decisions)),
        tools={**_tools(evaluation, student), **privacy_audit.tools(config.privacy)},
        limits=_limits(config),
    )
    read = _Read(sources, evaluation, decisions, student, order.identity()[:12])
    since = datetime.now(UTC)
    dataset = produce(order, workspace, on_event, lambda content: _work(read, config, content, on_event))
    if config.privacy.redact:
        folder = workspace.folder(dataset.stage, dataset.artifact_id)
        line = privacy_audit.audit(workspace.privacy_audit, folder, dataset, config.privacy, since)
        on_event(Note(stage=Stage.DATA, text=privacy_audit.told(line)))
    for finding in dataset.findings:  # a reused dataset tells them again
        on_event(Found(stage=Stage.DATA, finding=finding))
    _refuse_bad(dataset, config, on_event)
    return dataset


def _tools(evaluation: Sequence[Source], student: Student | None) -> dict[str, str]:
    """Return what beside configuration and sources decides what is found: evaluation files, the student, foreign rules."""
    foreign = sorted({f"{entry.dist.name} {entry.dist.version}" for entry in entry_points(group=GROUP) if entry.dist})
    files = {"evaluation_files": digest_of([source.sha256 for source in evaluation])} if evaluation else {}
    files |= {"student": identity(student)} if student else {}
    return {**files, **({"rules": ", ".join(foreign)} if foreign else {})}


def _limits(config: DataConfig) -> tuple[Limit, ...]:
    most = () if config.max_rejected is None else (Limit(metric="rejected", op="<=", value=config.max_rejected),)
    return (
        Limit(metric="rows", op=">=", value=config.min_rows),
        Limit(metric="rejected_share", op="<=", value=config.max_rejected_share),
        *most,
    )


@dataclass(frozen=True)
class _Read:
    """What is read, and the id of the artifact that comes of it."""

    sources: Sequence[Source]
    evaluation: Sequence[Source]
    decisions: dict[str, Decision]
    student: Student | None
    artifact_id: str


def _work(read: _Read, config: DataConfig, content: Path, on_event: OnEvent) -> Facts:
    for source in read.sources:
        if source.data is not None:
            write_atomic(content / docs.FILE, source.data)
    exams = Evaluation(read.evaluation, config.duplicates)
    scratch = content.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    with (
        (content / "rejects.jsonl").open("w", encoding="utf-8") as rejects,
        (content / "warnings.jsonl").open("w", encoding="utf-8") as warnings,
        Intake(config, read.sources, scratch, _logs(config, rejects, warnings)) as intake,
    ):
        logs = intake.logs
        workers = _WORKERS if sum(source.size_bytes for source in read.sources) > _WORTH_WORKERS_BYTES else 0
        with open_crew(_settings(config, read, exams.quotable()), workers, scratch) as crew:
            intake.read(crew, on_event)
            totals = crew.totals()
        settlement = Settlement(intake, config.held_out_share, config.duplicates)
        partly = settlement.write(content / rows_file.FILE, exams, logs)
    settlement.write_clusters(content / "clusters.jsonl", config.listed_warnings)
    statistics = _statistics(intake, settlement, totals, logs)
    redactions = _write_beside(content, config, totals)
    card = card_of(
        config,
        artifact_id=read.artifact_id,
        sources=intake.described(),
        files=(describe(content, rows_file.FILE, len(intake)),),
        statistics=statistics.result(redactions),
        remedies=logs.remedies(),
    )
    write_card(content, card)
    findings = (
        *logs.rejects.findings(),
        *logs.warnings.findings(),
        *statistics.coverage.findings(),
        *dict.fromkeys(finding for total in totals for finding in total.findings),
        *partly,
        *((not_at_hand(),) if read.student and not read.student.folder else ()),
    )
    return _facts(intake, settlement, logs, findings)


def _logs(config: DataConfig, rejects: TextIO, warnings: TextIO) -> Logs:
    return Logs(FlawLog(rejects, Severity.ERROR), FlawLog(warnings, Severity.WARNING, config.listed_warnings))


def _settings(config: DataConfig, read: _Read, quotable: Quotable) -> Settings:
    return Settings(
        shape=config.shape,
        answers=config.answers,
        held_out_share=config.held_out_share,
        rules=config.rules,
        quality=config.quality,
        coverage=config.coverage,
        privacy=config.privacy,
        passage_words=config.duplicates.passage_words,
        listed_worst=config.listed_worst,
        decisions=read.decisions,
        student=read.student if read.student and read.student.folder else None,
        quotable=quotable,
    )


def _statistics(intake: Intake, settlement: Settlement, totals: Sequence[Totals], logs: Logs) -> Statistics:
    """Return what was counted in all places together."""
    together = sum((total.statistics for total in totals), intake.statistics)
    together.moved("held_out", "train", settlement.moved_to_train)
    together.moved("train", "held_out", settlement.moved_to_held_out)
    for code in ("near-duplicate", "split-overlap", "contamination"):
        if rows := logs.warnings.counts[code]:
            together.found(code, Severity.WARNING, rows)
    return together


def _write_beside(content: Path, config: DataConfig, totals: Sequence[Totals]) -> PrivacyReport | None:
    worst = Worst(config.listed_worst)
    for total in totals:
        for row in total.worst:
            worst.add(row)
    write_json_lines(content / "worst.jsonl", (row.model_dump(mode="json") for row in worst.rows()))
    if not config.privacy.redact:
        return None
    report = joined([total.privacy for total in totals])
    write_atomic(content / privacy_audit.REPORT, report.model_dump_json(indent=2).encode())
    return report


def _facts(intake: Intake, settlement: Settlement, logs: Logs, findings: tuple[Finding, ...]) -> Facts:
    kept, rejected = len(intake), logs.rejects.counts.total()
    failed = rejected - logs.rejects.counts[DROPPED]  # what a person took out is no mistake of the data
    return Facts(
        own={
            "sources": intake.described(),
            "rows": kept,
            "train_rows": settlement.kept["train"],
            "held_out_rows": settlement.kept["held_out"],
            "rejected": rejected,
            "findings": findings,
        },
        metrics={
            "rows": kept,
            "rejected": failed,
            "rejected_share": failed / max(kept + failed, 1),
            "warnings": logs.warnings.counts.total(),
        },
        without_meaning=_WITHOUT_MEANING,
    )


def _refuse_bad(dataset: Dataset, config: DataConfig, on_event: OnEvent) -> None:
    if dataset.verdict.passed:
        return
    errors = [finding for finding in dataset.findings if finding.severity is Severity.ERROR]
    if errors:
        for line in _worst_rules(errors[:_RULES_SHOWN]):
            on_event(Note(stage=Stage.DATA, level="warning", text=line))
    worst = "; ".join(_told(finding) for finding in errors[:_WORST_SHOWN])
    failed = {failure.limit.metric for failure in dataset.verdict.failures}
    remedy = errors[0].remedy if errors else "Add rows."
    if "rows" in failed:
        problem = f"{dataset.rows} good row{'' if dataset.rows == 1 else 's'} < data.min_rows {config.min_rows}"
        raise NoRowsLeft(f"{problem}{': ' if worst else ''}{worst}", remedy=f"{remedy} Or lower data.min_rows.")
    if "rejected_share" in failed:
        share = dataset.metrics["rejected_share"]
        limit = "data.max_rejected_share"
        problem = f"{share:.1%} of rows rejected > {limit} {config.max_rejected_share:.1%}"
    else:
        limit = "data.max_rejected"
        problem = f"{dataset.rejected} rows rejected > {limit} {config.max_rejected}"
    remedy = f"{remedy} All are in rejects.jsonl of data {dataset.artifact_id}; or raise {limit}."
    raise BrokenRecord(f"{problem}: {worst}", remedy=remedy)


def _worst_rules(errors: Sequence[Finding]) -> list[str]:
    """Return the lines of a table of rules: how many rows each set aside, the first of them, what to do."""
    heads = ("rows", "rule", "first at", "what to do")
    rows = [
        heads,
        *((finding.evidence.split(" ", 1)[0], finding.code, finding.where, finding.remedy) for finding in errors),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)]
    lines = ("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows)
    return ["the rules that set most rows aside", *lines]


def _told(finding: Finding) -> str:
    rows = finding.evidence.partition(":")[0].partition(",")[0]
    return f"{finding.where} {finding.cause} ({rows})"
