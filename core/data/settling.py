"""What only all rows together decide: clusters, the split, overlap between its sides and with evaluation files; then the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.contract import Finding, Severity
from core.data.clusters import Clusters
from core.data.flaws import Flaw
from core.data.overlap import PassageIndex, passage_at, passages_of
from core.data.passages import those
from core.data.readers import read_lines
from core.data.record import Split
from core.data.rows_file import RowsWriter
from core.data.source import Source
from core.data.split import border_place, group_places
from core.data.streaming import Intake, Logs

_PASSAGE_ROWS = 4096
_EVALUATION_TEXTS = 256
_MEMBERS_SHOWN = 20
_EVALUATION_CHARS = 10_000_000  # the longest record of an evaluation file


class Settlement:
    """The decisions about all kept rows, made once and written down."""

    def __init__(self, intake: Intake, held_out_share: float, words: int, max_passages: int) -> None:
        self._intake = intake
        self._words = words
        self._max_passages = max_passages
        self.clusters = intake.deduplicator.clusters()
        self.held_out = _held_out(np.frombuffer(intake.places), self.clusters, held_out_share)
        self.kept: dict[Split, int] = {"train": int((~self.held_out).sum()), "held_out": int(self.held_out.sum())}
        alone = np.frombuffer(intake.places) < held_out_share if len(intake) else np.empty(0, dtype=np.bool_)
        self.moved_to_train = int((alone & ~self.held_out).sum())
        self.moved_to_held_out = int((~alone & self.held_out).sum())

    def write(self, path: Path, evaluation: Sequence[Source], logs: Logs) -> tuple[Finding, ...]:
        """Write the rows with their splits, warn of those that are alike, and return what passages could not tell."""
        others = self.clusters.representative
        alike = self.clusters.duplicates()
        named = _evaluation_index(evaluation, self._words, self._max_passages)
        held_out = self._held_out_index()
        found = self._overlaps(named, held_out)
        start = 0
        with RowsWriter(path) as writer:
            for batch in self._intake.spooled():
                rows = range(start, start + len(batch))
                writer.write(batch, ["held_out" if self.held_out[row] else "train" for row in rows])
                ids = batch.column("row_id")
                for row in rows:
                    if alike[row]:
                        flaw = self._near_duplicate(batch.column("user")[row - start].as_py(), row, int(others[row]))
                        logs.warning(self._intake.where(row), ids[row - start].as_py(), flaw)
                    for code, places in found.items():
                        if places[row] >= 0:
                            flaw = self._overlap(code, _said(batch, row - start), int(places[row]))
                            logs.warning(self._intake.where(row), ids[row - start].as_py(), flaw)
                start += len(batch)
        return tuple(_partly(index) for index in (named, held_out) if index.kept_share < 1)

    def _near_duplicate(self, text: str, row: int, other: int) -> Flaw:
        similarity, where = float(self.clusters.similarity[row]), self._intake.where(other)
        says = "says the same as" if self.clusters.equal[row] else f"resembles, by {similarity:.0%},"
        return Flaw("near-duplicate", "user", text, f"the row {says} {where}")

    def _overlap(self, code: str, text: str, place: int) -> Flaw:
        passage = passage_at(text, place, self._words)
        what = "a held-out row" if code == "split-overlap" else "data.evaluation_files"
        return Flaw(code, "user", passage, f"the row holds a passage of {what}")

    def _held_out_index(self) -> PassageIndex:
        index = PassageIndex(self._max_passages)
        for start, passages in self._intake.passages.read(_PASSAGE_ROWS):
            held_out = self.held_out[start : start + len(passages.offsets) - 1]
            index.add(those(passages, held_out))
        return index

    def _overlaps(self, named: PassageIndex, held_out: PassageIndex) -> dict[str, npt.NDArray[np.int32]]:
        """Return by code for each row the place of its first passage that is found, in words, -1 without one."""
        found = {code: np.full(len(self._intake), -1, dtype=np.int32) for code in ("split-overlap", "contamination")}
        for start, passages in self._intake.passages.read(_PASSAGE_ROWS):
            rows = slice(start, start + len(passages.offsets) - 1)
            unseen = np.where(self.held_out[rows], -1, held_out.find(passages).first)
            found["split-overlap"][rows] = unseen
            if len(named):
                found["contamination"][rows] = named.find(passages).first
        return found

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


def _evaluation_index(sources: Sequence[Source], words: int, most: int) -> PassageIndex:
    index = PassageIndex(most)
    texts: list[str] = []
    for source in sources:
        for line in read_lines(source, _EVALUATION_CHARS):
            if not isinstance(line.record, Flaw):
                texts.extend(_leaves(line.record))
            if len(texts) >= _EVALUATION_TEXTS:
                index.add(passages_of(texts, words))
                texts = []
    index.add(passages_of(texts, words))
    return index


def _leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value)


def _partly(index: PassageIndex) -> Finding:
    return Finding(
        code="data-overlap-partly-checked",
        severity=Severity.INFO,
        where="data.duplicates.max_passages",
        evidence=f"{index.kept_share:.0%} of the passages were looked for",
        cause="there are more passages than data.duplicates.max_passages, so one that stands alone may have been missed",
        remedy="Raise data.duplicates.max_passages; each takes 10 bytes of memory.",
    )
