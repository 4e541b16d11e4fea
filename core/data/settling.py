"""What only all rows together decide: clusters, the split, overlap between its sides and with evaluation files; then the file."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.contract import Finding, Severity
from core.data.clusters import Clusters
from core.data.evaluation import Evaluation, place_of
from core.data.flaws import Flaw
from core.data.leakage import Leaks, find_leaks
from core.data.limits import DuplicateLimits
from core.data.overlap import passage_at
from core.data.record import Split
from core.data.rows_file import RowsWriter
from core.data.split import border_place, group_places
from core.data.streaming import Intake, Logs

_MEMBERS_SHOWN = 20


class Settlement:
    """The decisions about all kept rows, made once and written down."""

    def __init__(self, intake: Intake, held_out_share: float, limits: DuplicateLimits) -> None:
        self._intake = intake
        self._limits = limits
        self.clusters = intake.deduplicator.clusters()
        self.held_out = _held_out(np.frombuffer(intake.places), self.clusters, held_out_share)
        self.kept: dict[Split, int] = {"train": int((~self.held_out).sum()), "held_out": int(self.held_out.sum())}
        alone = np.frombuffer(intake.places) < held_out_share if len(intake) else np.empty(0, dtype=np.bool_)
        self.moved_to_train = int((alone & ~self.held_out).sum())
        self.moved_to_held_out = int((~alone & self.held_out).sum())

    def write(self, path: Path, evaluation: Evaluation, logs: Logs) -> tuple[Finding, ...]:
        """Write the rows with their splits, warn of those that are alike, and return what passages could not tell."""
        alike = self.clusters.duplicates()
        contaminated = evaluation.held_in(self._intake.passages, np.frombuffer(self._intake.quotes, dtype=np.int64))
        leaks, looked_for = find_leaks(self._intake.passages, self.held_out, self._limits)
        start = 0
        with RowsWriter(path) as writer:
            for batch in self._intake.spooled():
                writer.write(batch, ["held_out" if side else "train" for side in self.held_out[start : start + len(batch)]])
                here = slice(start, start + len(batch))
                for place in np.flatnonzero(alike[here] | (leaks.of[here] >= 0) | (contaminated[here] >= 0)).tolist():
                    row = start + place
                    row_id, text = batch.column("row_id")[place].as_py(), _said(batch, place)
                    if alike[row]:
                        logs.warning(self._intake.where(row), row_id, self._near_duplicate(batch, place, row))
                    if leaks.of[row] >= 0:
                        logs.warning(self._intake.where(row), row_id, self._leak(leaks, row, text))
                    if contaminated[row] >= 0:
                        logs.warning(self._intake.where(row), row_id, _contamination(int(contaminated[row]), text))
                start += len(batch)
        return tuple(_partly(share) for share in (looked_for, *evaluation.kept_shares()) if share < 1)

    def _near_duplicate(self, batch: pa.RecordBatch, place: int, row: int) -> Flaw:
        similarity, where = float(self.clusters.similarity[row]), self._intake.where(int(self.clusters.representative[row]))
        says = "says the same as" if self.clusters.equal[row] else f"resembles, by {similarity:.0%},"
        return Flaw("near-duplicate", "user", batch.column("user")[place].as_py(), f"the row {says} {where}")

    def _leak(self, leaks: Leaks, row: int, text: str) -> Flaw:
        where = self._intake.where(int(leaks.of[row]))
        part = (
            f"its passages are those of held-out {where}"
            if leaks.own[row]
            else f"the passages of held-out {where} stand in it"
        )
        reason = f"{leaks.shares[row]:.0%} of {part} >= data.duplicates.min_shared {self._limits.min_shared:.0%}"
        return Flaw("split-overlap", "user", passage_at(text, int(leaks.places[row]), self._limits.passage_words), reason)

    def write_clusters(self, path: Path, most: int) -> None:
        """Write the largest clusters, each with its representative and some of its rows."""
        with path.open("w", encoding="utf-8") as stream:
            for cluster in islice(self.clusters.found(), most):
                record = {
                    "representative": self._intake.where(cluster.representative),
                    "rows": len(cluster.rows),
                    "equal": cluster.equal,
                    "lowest_similarity": round(cluster.lowest_similarity, 3),
                    "members": [self._intake.where(row) for row in cluster.rows[:_MEMBERS_SHOWN]],
                }
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def _held_out(places: npt.NDArray[np.float64], clusters: Clusters, share: float) -> npt.NDArray[np.bool_]:
    """Return which rows are held out; where that leaves a side empty, the group nearest to the border changes sides."""
    if not len(places):
        return np.empty(0, dtype=np.bool_)
    grouped = group_places(places, clusters.representative)
    held_out: npt.NDArray[np.bool_] = grouped < share
    if held_out.all() or not held_out.any():
        empty: Split = "train" if held_out.all() else "held_out"
        border = border_place(grouped, empty)
        held_out[grouped == border] = empty == "held_out"
    return held_out


def _said(batch: Any, row: int) -> str:
    texts = (batch.column(name)[row].as_py() for name in ("context", "user", "completion"))
    return "\n".join(text for text in texts if text)


def _contamination(found: int, text: str) -> Flaw:
    place, words = place_of(found)
    return Flaw(
        "contamination", "user", passage_at(text, place, words), f"the row holds {words} words of data.evaluation_files"
    )


def _partly(looked_for: float) -> Finding:
    return Finding(
        code="data-overlap-partly-checked",
        severity=Severity.INFO,
        where="data.duplicates.max_passages",
        evidence=f"{looked_for:.0%} of the passages were looked for",
        cause="there are more passages than data.duplicates.max_passages, so one that stands alone may have been missed",
        remedy="Raise data.duplicates.max_passages; each takes 10 bytes of memory.",
    )
