"""The list of rows to look at, as a file for a spreadsheet, and the decisions taken back from it. They are kept by decisions.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from core.contract import Contract
from core.data import rows_file
from core.data.decisions import DROPPED, TEXT_FIELDS, Decision, Decisions, TextField, keepable
from core.data.quality import ScoredRow
from core.data.record import Reject
from core.errors import DecisionRefused
from core.files import read_json_lines

WORDS = ("keep", "drop", "edited", "forget")

_DONE = {"keep": "kept", "drop": "dropped", "edited": "edited"}
_SHOWN = 5
_NOT_LISTED = frozenset({"duplicate", DROPPED})  # the row is there once, or was decided already


class ReviewRow(Contract):
    """One row to look at: `decision` is to be filled in; `row_id` is empty where the record could not be read."""

    decision: str = ""
    row_id: str
    state: Literal["kept", "set aside"]
    score: float | None
    findings: str
    where: str
    why: str
    remedy: str
    system: str = ""
    context: str = ""
    user: str = ""
    completion: str = ""


class Taken(Contract):
    """The decisions as they now are, and how many of each word were taken in."""

    decisions: dict[str, Decision]
    counts: dict[str, int]


def review_list(folder: Path, decisions: Decisions, most: int) -> list[ReviewRow]:
    """Return the rows of a dataset to look at, at most so many: the worst, those with warnings, those set aside.

    Rows that were decided on are left out.
    """
    scored = {
        row.row_id: row for row in map(ScoredRow.model_validate, read_json_lines(folder / "worst.jsonl")) if row.codes
    }
    warned: dict[str, list[Reject]] = {}
    for warning in map(Reject.model_validate, read_json_lines(folder / "warnings.jsonl")):
        if warning.row_id:
            warned.setdefault(warning.row_id, []).append(warning)
    wanted = [
        row_id for row_id in [*scored, *(other for other in warned if other not in scored)] if row_id not in decisions
    ][:most]
    texts = _texts_of_rows(folder, set(wanted))
    listed = [_kept(row_id, scored.get(row_id), warned.get(row_id, []), texts) for row_id in wanted]
    return [*listed, *_set_aside(folder, decisions, most - len(listed))]


def _kept(
    row_id: str, scored: ScoredRow | None, warnings: list[Reject], texts: Mapping[str, dict[TextField, str]]
) -> ReviewRow:
    codes = [*(scored.codes if scored else ()), *(warning.code for warning in warnings)]
    return ReviewRow(
        row_id=row_id,
        state="kept",
        score=round(scored.score, 3) if scored else None,
        findings=", ".join(dict.fromkeys(codes)),
        where=scored.where if scored else warnings[0].where,
        why="; ".join(dict.fromkeys(warning.reason for warning in warnings)),
        remedy=" ".join(dict.fromkeys(warning.remedy for warning in warnings)),
        **texts.get(row_id, {}),
    )


def _set_aside(folder: Path, decisions: Decisions, most: int) -> list[ReviewRow]:
    """Return the rows set aside that can be mended here, then those that can be mended in their source only."""
    here: list[ReviewRow] = []
    elsewhere: list[ReviewRow] = []
    for reject in map(Reject.model_validate, read_json_lines(folder / "rejects.jsonl")):
        rows = here if reject.texts else elsewhere
        if len(rows) < most and reject.code not in _NOT_LISTED and reject.row_id not in decisions:
            rows.append(_rejected(reject))
    return [*here, *elsewhere][:most]


def _rejected(reject: Reject) -> ReviewRow:
    texts = {field: text for field, text in (reject.texts or {}).items() if text}
    return ReviewRow(
        row_id=reject.row_id or "",
        state="set aside",
        score=0.0,
        findings=reject.code,
        where=reject.where,
        why=reject.reason,
        remedy=reject.remedy,
        **texts if reject.texts else {"user": reject.excerpt},
    )


def _texts_of_rows(folder: Path, wanted: set[str]) -> dict[str, dict[TextField, str]]:
    if not wanted:
        return {}
    rows = (row for row in rows_file.read_rows(folder / rows_file.FILE) if row["row_id"] in wanted)
    return {row["row_id"]: _texts(row) for row in rows}


def _texts(row: Mapping[str, Any]) -> dict[TextField, str]:
    return {field: row[field] for field in TEXT_FIELDS if row.get(field)}


def take(records: Iterable[Mapping[str, str]], folder: Path, decisions: Decisions) -> Taken:
    """Return the decisions with those of a reviewed list; a word that is left out decides nothing.

    DecisionRefused names every entry that cannot be done; then none is taken.
    """
    entries = [(number, entry) for number, entry in enumerate(records, start=1) if entry.get("decision", "").strip()]
    known = _known(folder, {entry.get("row_id", "").strip() for _, entry in entries})
    merged, counts, problems = dict(decisions), dict.fromkeys(WORDS, 0), []
    for number, entry in entries:
        word, row_id = entry["decision"].strip().casefold(), entry.get("row_id", "").strip()
        problem = _problem(word, row_id, entry, known, decisions)
        decision = None if problem or word not in {"keep", "drop", "edited"} else _decision(word, row_id, entry, known)
        if problem:
            problems.append(f"entry {number}: {problem}")
            continue
        counts[word] += 1
        if decision:
            merged[row_id] = decision
        else:
            merged.pop(row_id, None)
    if problems:
        more = f"; {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DecisionRefused(
            "; ".join(problems[:_SHOWN]) + more,
            remedy="Correct these entries and take the file in again; nothing was taken.",
        )
    return Taken(decisions=merged, counts={word: count for word, count in counts.items() if count})


class _Known(Contract):
    """A row as the dataset has it; `code` says why it was set aside."""

    texts: dict[TextField, str]
    code: str | None = None


def _known(folder: Path, wanted: set[str]) -> dict[str, _Known]:
    found = {row_id: _Known(texts=texts) for row_id, texts in _texts_of_rows(folder, wanted).items()}
    for reject in map(Reject.model_validate, read_json_lines(folder / "rejects.jsonl")):
        if reject.row_id in wanted and reject.row_id not in found and reject.texts:
            found[reject.row_id] = _Known(texts=_texts(reject.texts), code=reject.code)
    return found


def _problem(
    word: str, row_id: str, entry: Mapping[str, str], known: Mapping[str, _Known], decisions: Decisions
) -> str | None:
    where = entry.get("where", "").strip() or "the row"
    if word not in WORDS:
        return f"{word[:40]!r} is none of {', '.join(WORDS)}"
    if word == "forget":
        return None if row_id in decisions else f"{row_id or where} was never decided on"
    if not row_id:
        told = (
            f"{where} could not be read ({entry.get('findings', '').strip() or 'no row id'}), so it cannot be {_DONE[word]}"
        )
        return None if word == "drop" else f"{told}; mend it in its source"
    row = known.get(row_id)
    if row is None:
        return None if row_id in decisions and word == "drop" else f"{row_id[:40]} is no row of this dataset"
    if word == "keep" and row.code and not keepable(row.code):
        return f"{where} cannot be kept as it is ({row.code}); edit it or mend it in its source"
    return _edit_problem(entry, row) if word == "edited" else None


def _edit_problem(entry: Mapping[str, str], row: _Known) -> str | None:
    changed = _changes(entry, row)
    if not changed:
        return "it says edited, but no text is another"
    return "the question was emptied; write drop to take the row out" if changed.get("user", "x") is None else None


def _decision(
    word: Literal["keep", "drop", "edited"] | str, row_id: str, entry: Mapping[str, str], known: Mapping[str, _Known]
) -> Decision | None:
    if not row_id:
        return None
    texts = _changes(entry, known[row_id]) if word == "edited" else {}
    return Decision.model_validate({"row_id": row_id, "decision": word, "texts": texts})


def _changes(entry: Mapping[str, str], row: _Known) -> dict[TextField, str | None]:
    """Return the texts that are others; how a spreadsheet ends its lines does not count, nor a column that was left out."""
    changed: dict[TextField, str | None] = {}
    for field in TEXT_FIELDS:
        if field in entry:
            text = _one_kind_of_line_end(entry[field])
            if text != _one_kind_of_line_end(row.texts.get(field, "")):
                changed[field] = text if text.strip() else None
    return changed


def _one_kind_of_line_end(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
