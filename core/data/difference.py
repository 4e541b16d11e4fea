"""Two versions of a dataset held side by side: rows added, gone, changed, on another side; findings before and after.

Rows are matched by their id, the hash of what shapes the chat, so a row with another text has another id. Of the rows left over
those that ask the same question in the same context are one row that changed; where the question itself was changed, the row
counts as gone and another as added. In memory are 25 bytes a row of each version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from core.contract import Contract, Severity
from core.data import rows_file
from core.data.card import Card
from core.errors import CardMismatch
from core.files import confine

Numbers = npt.NDArray[np.uint64]

_COLUMNS = ["row_id", "split", "user", "context", "extra"]
_EXCERPT_CHARS = 120
_COMPARED = (
    "system",
    "context",
    "user",
    "completion",
    "history",
    "steps",
    "tools",
    "answer_tool_calls",
    "requires_json",
    "tool_name",
    "tool_schema",
    "extra",
)


class RowDifference(Contract):
    """One row that differs; `what` is a side or the fields that changed, `before` is its id in the older version."""

    row_id: str
    before: str | None = None
    question: str
    what: str


class FindingDifference(Contract):
    """A rule's findings in both versions, in rows."""

    code: str
    severity: Severity
    before: int
    after: int


class Difference(Contract):
    """What is different from an older version of a dataset to a newer one; the rows listed are the first of each kind."""

    before: str
    after: str
    rows_before: int
    rows_after: int
    same: int
    added: int
    gone: int
    changed: int
    moved_to_train: int
    moved_to_held_out: int
    findings: tuple[FindingDifference, ...]
    settings: dict[str, tuple[Any, Any]]
    rows_added: tuple[RowDifference, ...]
    rows_gone: tuple[RowDifference, ...]
    rows_changed: tuple[RowDifference, ...]
    rows_moved: tuple[RowDifference, ...]


@dataclass(frozen=True)
class _Version:
    """A version's rows in the order of their ids."""

    ids: Numbers
    questions: Numbers
    extras: Numbers
    held_out: npt.NDArray[np.bool_]

    def those(self, chosen: npt.NDArray[Any]) -> _Version:
        return _Version(self.ids[chosen], self.questions[chosen], self.extras[chosen], self.held_out[chosen])


def difference(before: tuple[Path, Card], after: tuple[Path, Card], most: int) -> Difference:
    """Compare two datasets given by their folders and cards; at most `most` rows of each kind are listed.

    CardMismatch when a file is not what the card says.
    """
    old, new = _read(*before), _read(*after)
    _, in_old, in_new = np.intersect1d(old.ids, new.ids, assume_unique=True, return_indices=True)
    both_old, both_new = old.those(in_old), new.those(in_new)
    left, came = old.those(_without(old, in_old)), new.those(_without(new, in_new))
    pairs_old, pairs_new = _same_question(left, came)
    relabelled = np.flatnonzero(both_old.extras != both_new.extras)
    moved = np.flatnonzero(both_old.held_out != both_new.held_out)
    gone, added = left.those(_without(left, pairs_old)), came.those(_without(came, pairs_new))
    changed = [
        *zip(left.ids[pairs_old].tolist(), came.ids[pairs_new].tolist(), strict=True),
        *((row, row) for row in both_new.ids[relabelled].tolist()),
    ]
    told = _Told(before, after, most)
    return Difference(
        before=before[1].dataset,
        after=after[1].dataset,
        rows_before=len(old.ids),
        rows_after=len(new.ids),
        same=len(both_old.ids) - len(set(relabelled.tolist()) | set(moved.tolist())),
        added=len(added.ids),
        gone=len(gone.ids),
        changed=len(changed),
        moved_to_train=int(both_old.held_out[moved].sum()),
        moved_to_held_out=int(both_new.held_out[moved].sum()),
        findings=tuple(_findings(before[1], after[1])),
        settings=dict(_settings(before[1].config, after[1].config)),
        rows_added=told.added(added),
        rows_gone=told.gone(gone),
        rows_changed=told.changed(changed),
        rows_moved=told.moved(both_new.those(moved)),
    )


def _without(version: _Version, places: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    kept = np.ones(len(version.ids), dtype=np.bool_)
    kept[places] = False
    return kept


def _same_question(left: _Version, came: _Version) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return places of rows that ask the same, one to one, in the order of their ids."""
    old, new = _ranked(left.questions), _ranked(came.questions)
    _, in_old, in_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    return in_old, in_new


def _ranked(questions: Numbers) -> npt.NDArray[Any]:
    """Return each question with how many rows before it ask the same, so that no two entries are equal."""
    order = np.argsort(questions, kind="stable")
    ordered = questions[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, dtype=np.int64)
    sizes = np.diff(np.append(starts, len(ordered)))
    ranked = np.empty(len(ordered), dtype=[("question", np.uint64), ("rank", np.int64)])
    ranked["question"] = questions
    ranked["rank"][order] = np.arange(len(ordered)) - np.repeat(starts, sizes)
    return ranked


def _read(folder: Path, card: Card) -> _Version:
    parts = []
    for file in card.files:
        try:
            with pq.ParquetFile(confine(folder, file.path)) as stored:
                parts += [_part(batch) for batch in stored.iter_batches(columns=_COLUMNS)]
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise CardMismatch(
                f"{folder / file.path} does not hold rows of a dataset: {reason}",
                remedy=f"See what is wrong with it: edgekiln data card {folder} --check",
            ) from error
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.empty(0)] * 4
    ids, questions, extras = (column.astype(np.uint64) for column in columns[:3])
    return _Version(ids, questions, extras, columns[3].astype(np.bool_)).those(np.argsort(ids))


def _part(batch: pa.RecordBatch) -> tuple[Numbers, Numbers, Numbers, npt.NDArray[np.bool_]]:
    columns = batch.to_pydict()
    ids = np.array([int(row_id, 16) for row_id in columns["row_id"]], dtype=np.uint64)
    asked = zip(columns["user"], columns["context"], strict=True)
    questions = np.array(
        [_hash(*(" ".join((text or "").casefold().split()) for text in pair)) for pair in asked], dtype=np.uint64
    )
    extras = np.array([_hash(extra or "") for extra in columns["extra"]], dtype=np.uint64)
    return ids, questions, extras, np.array([split == "held_out" for split in columns["split"]], dtype=np.bool_)


def _hash(*texts: str) -> int:
    return int.from_bytes(hashlib.blake2b("\x00".join(texts).encode(), digest_size=8).digest(), "little")


def _findings(before: Card, after: Card) -> Iterator[FindingDifference]:
    """Yield the rules that found another number of rows."""
    old = {(rule.code, rule.severity): rule.rows for rule in before.statistics.findings}
    new = {(rule.code, rule.severity): rule.rows for rule in after.statistics.findings}
    for code, severity in sorted(old.keys() | new.keys(), key=lambda key: (list(Severity).index(key[1]), key[0])):
        counts = old.get((code, severity), 0), new.get((code, severity), 0)
        if counts[0] != counts[1]:
            yield FindingDifference(code=code, severity=severity, before=counts[0], after=counts[1])


def _settings(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "data"
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for name in sorted(before.keys() | after.keys()):
        old, new, key = before.get(name), after.get(name), f"{prefix}.{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _settings(old, new, key)
        elif old != new:
            yield key, (old, new)


class _Told:
    """Reads again the rows that are listed."""

    def __init__(self, before: tuple[Path, Card], after: tuple[Path, Card], most: int) -> None:
        self._before = before
        self._after = after
        self._most = most

    def added(self, rows: _Version) -> tuple[RowDifference, ...]:
        return self._simply(rows, self._after)

    def gone(self, rows: _Version) -> tuple[RowDifference, ...]:
        return self._simply(rows, self._before)

    def moved(self, rows: _Version) -> tuple[RowDifference, ...]:
        return self._simply(rows, self._after)

    def _simply(self, rows: _Version, place: tuple[Path, Card]) -> tuple[RowDifference, ...]:
        found = _rows(*place, rows.ids[: self._most].tolist())
        return tuple(
            RowDifference(row_id=row_id, question=row["user"][:_EXCERPT_CHARS], what=row["split"])
            for row_id, row in found.items()
        )

    def changed(self, pairs: list[tuple[int, int]]) -> tuple[RowDifference, ...]:
        shown = pairs[: self._most]
        old = _rows(*self._before, [pair[0] for pair in shown])
        new = _rows(*self._after, [pair[1] for pair in shown])
        return tuple(
            RowDifference(
                row_id=_name(later),
                before=_name(earlier) if earlier != later else None,
                question=new[_name(later)]["user"][:_EXCERPT_CHARS],
                what=", ".join(
                    field for field in _COMPARED if old[_name(earlier)].get(field) != new[_name(later)].get(field)
                ),
            )
            for earlier, later in shown
        )


def _name(row_id: int) -> str:
    return f"{row_id:016x}"


def _rows(folder: Path, card: Card, ids: list[int]) -> dict[str, dict[str, Any]]:
    """Return rows by id, in the order of the ids."""
    wanted = {_name(row_id) for row_id in ids}
    found: dict[str, dict[str, Any]] = {}
    for file in card.files if wanted else ():
        rows = (row for row in rows_file.read_rows(confine(folder, file.path)) if row["row_id"] in wanted)
        found |= {row["row_id"]: row for row in islice(rows, len(wanted))}
    return {_name(row_id): found[_name(row_id)] for row_id in ids}
