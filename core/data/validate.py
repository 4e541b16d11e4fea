"""The data stage: one streaming pass over all sources, every record kept or rejected, the split, the gate."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from core.config import DataConfig
from core.contract import Finding, Limit, Severity, Stage
from core.data import docs
from core.data.flaws import Flaw
from core.data.readers import Line, Source, open_sources, read_lines
from core.data.record import PromptRow, Reject, Split, read_prompts
from core.data.rules import judge_draft
from core.data.shapes import Draft, draft_of
from core.data.split import border_row, score, side
from core.errors import BrokenRecord, NoRowsLeft
from core.events import Found, OnEvent, Progress, ignore
from core.files import digest_of, write_atomic, write_json_lines
from core.nouns import Dataset, SourceRef
from core.stage import Facts, Order, produce
from core.workspace import Workspace

_VERSION = 1
_LINES_BETWEEN_PROGRESS = 2000
_ID_DIGITS = 16
_WORST_SHOWN = 3


def validate(config: DataConfig, workspace: Workspace, on_event: OnEvent = ignore) -> Dataset:
    """Read the sources and publish the rows worth labelling, with those set aside beside them.

    The dataset's identity is the sources' bytes, whatever their names and order. SourceMissing, SourceEmpty, NotUtf8;
    after publishing, NoRowsLeft or BrokenRecord when too few rows are left or too many were set aside.
    """
    sources = open_sources(config.sources, config.builtin_rows)
    order = Order(
        noun=Dataset,
        stage=Stage.DATA,
        version=_VERSION,
        config=config,
        inputs=tuple(source.sha256 for source in sources),
        limits=(
            Limit(metric="rows", op=">=", value=config.min_rows),
            Limit(metric="rejected_share", op="<=", value=config.max_rejected_share),
        ),
    )
    dataset = produce(order, workspace, on_event, lambda content: _read_all(sources, config, content, on_event))
    for finding in dataset.findings:  # a reused dataset tells them again
        on_event(Found(stage=Stage.DATA, finding=finding))
    _refuse_bad(dataset, config)
    return dataset


def _read_all(sources: Sequence[Source], config: DataConfig, content: Path, on_event: OnEvent) -> Facts:
    for source in sources:
        if source.data is not None:
            write_atomic(content / docs.FILE, source.data)
    path = content / "rows.jsonl"
    with (content / "rejects.jsonl").open("w", encoding="utf-8") as rejects:
        reading = _Pass(config, rejects, on_event)
        write_json_lines(path, (row.model_dump(mode="json") for row in reading.rows(sources)))
    _fill_empty_side(path, reading.kept)
    kept, rejected = reading.kept.total(), reading.rejected.total()
    return Facts(
        own={
            "sources": tuple(reading.describe(source) for source in sources),
            "rows": kept,
            "train_rows": reading.kept["train"],
            "held_out_rows": reading.kept["held_out"],
            "rejected": rejected,
            "findings": reading.findings(),
        },
        metrics={"rows": kept, "rejected_share": rejected / (kept + rejected)},
        without_meaning=frozenset({"rejects.jsonl"}),
    )


class _Pass:
    """One pass: every record comes out once, as a kept row or as a reject."""

    def __init__(self, config: DataConfig, rejects: TextIO, on_event: OnEvent) -> None:
        self._config = config
        self._rejects = rejects
        self._on_event = on_event
        self._seen: dict[str, str] = {}
        self._first: dict[str, Reject] = {}
        self._shapes: dict[str, Counter[str]] = {}
        self.kept: Counter[Split] = Counter()
        self.rejected: Counter[str] = Counter()

    def rows(self, sources: Sequence[Source]) -> Iterator[PromptRow]:
        """Yield the kept rows and write the rejects."""
        done, total = 0, sum(source.size_bytes for source in sources)
        for source in sources:
            shapes = self._shapes[source.name] = Counter()
            for number, line in enumerate(read_lines(source, self._config.max_chars), start=1):
                row = self._judge(line, shapes)
                if isinstance(row, PromptRow):
                    self.kept[row.split] += 1
                    yield row
                else:
                    self._reject(row.at(line.where))
                if number % _LINES_BETWEEN_PROGRESS == 0:
                    self._tell(done + line.end_byte, total)
            done += source.size_bytes
        self._tell(total, total)

    def _judge(self, line: Line, shapes: Counter[str]) -> PromptRow | Flaw:
        draft = line.record if isinstance(line.record, Flaw) else draft_of(line.record, self._config.shape)
        shapes[draft.shape if isinstance(draft, Draft) else "unread"] += 1
        if isinstance(draft, Flaw):
            return draft
        if flaw := judge_draft(draft, self._config.max_chars):
            return flaw
        row = _row(draft, self._config.held_out_share)
        earlier = self._seen.setdefault(row.row_id, line.where)
        if earlier != line.where:
            return Flaw("duplicate", "user", draft.user, f"asks exactly what {earlier} asks")
        return row

    def _reject(self, reject: Reject) -> None:
        self.rejected[reject.code] += 1
        self._first.setdefault(reject.code, reject)
        self._rejects.write(json.dumps(reject.model_dump(mode="json"), ensure_ascii=False) + "\n")

    def _tell(self, done: float, total: float) -> None:
        self._on_event(Progress(stage=Stage.DATA, task="reading", done=done, total=total, unit="bytes"))

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding a reject code, the commonest first."""
        return tuple(self._finding(code, count) for code, count in self.rejected.most_common())

    def _finding(self, code: str, count: int) -> Finding:
        first = self._first[code]
        rows = "1 row was set aside" if count == 1 else f"{count} rows were set aside, here the first"
        return Finding(
            code=f"data-{code}",
            severity=Severity.ERROR,
            where=first.where,
            evidence=f"{rows}: {first.excerpt}",
            cause=first.reason,
            remedy=first.remedy,
        )

    def describe(self, source: Source) -> SourceRef:
        """Return how a source was read."""
        shapes = self._shapes[source.name]
        read = [shape for shape in sorted(shapes) if shape != "unread"]
        return SourceRef(name=source.name, sha256=source.sha256, shape="+".join(read) or "unknown", records=shapes.total())


def _row(draft: Draft, held_out_share: float) -> PromptRow:
    """Build the row; its id is the hash of everything that shapes the chat, so not of `extra`."""
    shaping = {
        "user": draft.user,
        "system": draft.system,
        "context": draft.context,
        "completion": draft.completion,
        "requires_json": draft.requires_json,
        "tool_name": draft.tool_name,
        "tool_schema": draft.tool_schema,
    }
    split = side(score(draft.user, draft.context), held_out_share)
    return PromptRow.model_validate(
        {"row_id": digest_of(shaping)[:_ID_DIGITS], "split": split, **shaping, "extra": draft.extra}
    )


def _fill_empty_side(path: Path, kept: Counter[Split]) -> None:
    """Move the border row when a small set has an empty side; `kept` follows."""
    splits: tuple[Split, Split] = ("train", "held_out")
    empty = next((split for split in splits if kept[split] == 0), None)
    if empty is None or kept.total() < 2:
        return
    moved = border_row(read_prompts(path), empty)
    rows = [row.model_copy(update={"split": empty}) if row.row_id == moved else row for row in read_prompts(path)]
    write_json_lines(path, (row.model_dump(mode="json") for row in rows))
    kept[empty] += 1
    kept["train" if empty == "held_out" else "held_out"] -= 1


def _refuse_bad(dataset: Dataset, config: DataConfig) -> None:
    if dataset.verdict.passed:
        return
    worst = "; ".join(_told(finding) for finding in dataset.findings[:_WORST_SHOWN])
    failed = {failure.limit.metric for failure in dataset.verdict.failures}
    remedy = dataset.findings[0].remedy if dataset.findings else "Add rows."
    if "rows" in failed:
        problem = f"{dataset.rows} good row{'' if dataset.rows == 1 else 's'} < data.min_rows {config.min_rows}"
        raise NoRowsLeft(f"{problem}{': ' if worst else ''}{worst}", remedy=f"{remedy} Or lower data.min_rows.")
    share = dataset.metrics["rejected_share"]
    raise BrokenRecord(
        f"{share:.1%} of rows rejected > data.max_rejected_share {config.max_rejected_share:.1%}: {worst}",
        remedy=f"{remedy} All are in rejects.jsonl of data {dataset.artifact_id}; or raise data.max_rejected_share.",
    )


def _told(finding: Finding) -> str:
    rows = finding.evidence.partition(":")[0].partition(",")[0]
    return f"{finding.where} {finding.cause} ({rows})"
