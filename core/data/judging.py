"""One batch of records judged: which rows are kept, why the others are not, and what the whole corpus must know of each.

It is the same in this process and in workers (crew.py). Whether a row repeats an earlier one is known only where all rows
come together, so what is counted waits until `settle` tells which rows stayed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from core.contract import Contract, Finding, Severity
from core.data import rows_file
from core.data.decisions import DROPPED, TEXT_FIELDS, Decision, decided, keepable
from core.data.evaluation import Found, Quotable, QuoteFinder
from core.data.flaws import EXCERPT_CHARS, Flaw
from core.data.languages import main_language
from core.data.limits import CoverageLimits, PrivacyLimits, QualityWeights, RuleLimits
from core.data.name_finders import load_name_finder
from core.data.near_duplicates import Fingerprints, fingerprint_normal
from core.data.overlap import passages_of_normal
from core.data.privacy import REDACTED, PrivacyReport, PrivacyTally, redact, redact_flaw
from core.data.quality import Quality, ScoredRow, Worst, quality
from core.data.record import Message, PromptRow, Reject, Split, student_messages
from core.data.rule_plugins import failures, load_rules
from core.data.rules import Rule, judge
from core.data.shapes import Draft, Shape, draft_of, stray_answer
from core.data.shingles import Runs, normalise
from core.data.source import Line
from core.data.split import score, side
from core.data.statistics import Statistics
from core.data.subject import subject_of
from core.data.token_rules import Chat, Student, TokenCounter, token_flaws
from core.files import canonical_json, digest_of

_TEXTS = ("context", "user", "completion", "system")
ID_DIGITS = 16  # 64 bits, as many as a row's hash has among near duplicates


class Settings(Contract):
    """What a batch is judged by."""

    shape: Literal["auto"] | Shape
    answers: Literal["optional", "required"]
    held_out_share: float
    rules: RuleLimits
    quality: QualityWeights
    coverage: CoverageLimits
    privacy: PrivacyLimits
    passage_words: int
    listed_worst: int
    decisions: dict[str, Decision] = {}
    student: Student | None = None
    quotable: Quotable = Quotable()


@dataclass(frozen=True)
class Judged:
    """What became of a batch of records; arrays and columns have one entry for each row that is kept so far.

    `kept` and the numbers in `rejects` are places in the batch, those in `warnings` are places in `kept`.
    """

    kept: list[int]
    rejects: list[tuple[int, Reject]]
    warnings: list[tuple[int, Reject]]
    shapes: Counter[str]
    rows: pa.RecordBatch
    keys: npt.NDArray[np.uint64]
    places: npt.NDArray[np.float64]
    answer_chars: npt.NDArray[np.uint32]
    fingerprints: Fingerprints
    passages: Runs
    quotes: Found


@dataclass
class Totals:
    """What was counted over all batches of one judge."""

    statistics: Statistics
    privacy: PrivacyReport
    worst: list[ScoredRow]
    findings: tuple[Finding, ...] = ()


@dataclass
class _Row:
    where: str
    draft: Draft
    shaping: dict[str, Any]
    row_id: str
    place: float
    flaws: tuple[Flaw, ...]
    quality: Quality
    spoken: tuple[str, ...]
    language: str | None = None
    tokens: int | None = None


class Judge:
    """Judges batches, and counts the rows that stay."""

    def __init__(self, settings: Settings, counter: TokenCounter | None = None) -> None:
        self._settings = settings
        self._counter = counter
        self._rules, self._broken_rules = load_rules()
        self._lenient = tuple(
            replace(rule, severity=Severity.WARNING) if keepable(rule.code) else rule for rule in self._rules
        )
        self._names = load_name_finder(settings.privacy)
        self._privacy = PrivacyTally(settings.privacy, self._names)
        self._statistics = Statistics(settings.coverage)
        self._worst = Worst(settings.listed_worst)
        self._quotes = QuoteFinder(settings.quotable)
        self._waiting: dict[int, list[_Row]] = {}

    def judge(self, number: int, lines: Sequence[Line]) -> Judged:
        """Judge a batch, which is settled later by its number."""
        kept: list[int] = []
        rows: list[_Row] = []
        rejects: list[tuple[int, Reject]] = []
        shapes: Counter[str] = Counter()
        for place, line in enumerate(lines):
            row = self._read(line, shapes)
            if isinstance(row, Reject):
                rejects.append((place, row))
            else:
                kept.append(place)
                rows.append(row)
        if self._counter and self._settings.student:
            kept, rows = self._fitting(self._counter, self._settings.student, kept, rows, rejects)
        for row in rows:  # one after the other, as the model takes three times as long when its tables left the cache
            row.language = main_language(row.spoken, self._settings.rules)
        self._waiting[number] = rows
        return self._together(kept, rejects, shapes, rows)

    def settle(self, number: int, stayed: Sequence[bool]) -> None:
        """Count those of a batch's kept rows that no earlier row makes needless."""
        for row, stays in zip(self._waiting.pop(number), stayed, strict=True):
            if stays:
                self._count(row)

    def totals(self) -> Totals:
        """Return what was counted."""
        found = (*self._broken_rules, *failures(self._rules))
        return Totals(self._statistics, self._privacy.report(), self._worst.rows(), found)

    def _read(self, line: Line, shapes: Counter[str]) -> _Row | Reject:
        record = line.record
        draft = record if isinstance(record, Flaw) else self._draft(record)
        shapes[draft.shape if isinstance(draft, Draft) else "unread"] += 1
        if isinstance(draft, Flaw):
            return self._without_personal_data(draft).at(line.where)
        draft, verdict = decided(draft, self._settings.decisions, row_id_of, self._cleaned)
        if verdict == "drop":
            return _set_aside(Flaw(DROPPED, "user", draft.user, "a review dropped it", Severity.INFO), line.where, draft)
        return self._judged(line.where, draft, self._lenient if verdict == "keep" else self._rules)

    def _judged(self, where: str, draft: Draft, rules: Sequence[Rule]) -> _Row | Reject:
        if self._settings.answers == "required" and draft.completion is None:
            missing = Flaw("answer-missing", "completion", draft.user, "the row has no answer as its last turn")
            return _set_aside(missing, where, draft)
        subject = subject_of(draft)
        flaws = judge(subject, self._settings.rules, rules)
        if flaws and flaws[-1].severity is Severity.ERROR:
            return _set_aside(flaws[-1], where, draft)
        if stray := stray_answer(draft):
            flaws = (*flaws, stray)
        shaping = draft.shaping()
        return _Row(
            where=where,
            draft=draft,
            shaping=shaping,
            row_id=digest_of(shaping)[:ID_DIGITS],
            place=score(draft.user, draft.context),
            flaws=flaws,
            quality=quality(subject, flaws, self._settings.rules, self._settings.quality),
            spoken=tuple(text for _, text in subject.spoken),
        )

    def _fitting(
        self, counter: TokenCounter, student: Student, kept: list[int], rows: list[_Row], rejects: list[tuple[int, Reject]]
    ) -> tuple[list[int], list[_Row]]:
        """Return those rows, with their places, of which the student can learn; the others are added to the rejects."""
        chats = [student_chat(row.draft, student) for row in rows]
        fitting: list[tuple[int, _Row]] = []
        for place, row, chat, tokens in zip(kept, rows, chats, counter.count(chats), strict=True):
            flaws = token_flaws(tokens, chat, student.max_length)
            if flaws and flaws[0].severity is Severity.ERROR:
                rejects.append((place, _set_aside(flaws[0], row.where, row.draft)))
            else:
                fitting.append((place, replace(row, tokens=tokens.total, flaws=(*row.flaws, *flaws))))
        return [place for place, _ in fitting], [row for _, row in fitting]

    def _draft(self, record: dict[str, Any]) -> Draft | Flaw:
        if self._settings.privacy.redact:
            redacted = redact(record, self._settings.privacy, self._names)
            self._privacy.add(redacted)
            if redacted.refusal:
                return redacted.refusal
            record = redacted.tree
        return draft_of(record, self._settings.shape)

    def _cleaned(self, draft: Draft) -> Draft:
        """Return a draft that a person edited as the privacy pass leaves it."""
        if not self._settings.privacy.redact:
            return draft
        texts = texts_of(draft)
        redacted = redact(texts, self._settings.privacy, self._names)
        return replace(draft, **(dict.fromkeys(texts, REDACTED) if redacted.refusal else redacted.tree))

    def _without_personal_data(self, flaw: Flaw) -> Flaw:
        return redact_flaw(flaw, self._settings.privacy, self._names) if self._settings.privacy.redact else flaw

    def _together(
        self, kept: list[int], rejects: list[tuple[int, Reject]], shapes: Counter[str], rows: list[_Row]
    ) -> Judged:
        normal = [{name: normalise(text) for name in _TEXTS if (text := row.shaping[name])} for row in rows]
        said = [" ".join(text for name, text in texts.items() if name != "system") for texts in normal]
        count = len(rows)
        return Judged(
            kept=kept,
            rejects=rejects,
            warnings=[(place, flaw.at(row.where, row.row_id)) for place, row in enumerate(rows) for flaw in row.flaws],
            shapes=shapes,
            rows=rows_file.columns_of([{**row.shaping, "row_id": row.row_id, "extra": row.draft.extra} for row in rows]),
            keys=np.fromiter((_key(row.shaping, texts) for row, texts in zip(rows, normal, strict=True)), np.uint64, count),
            places=np.fromiter((row.place for row in rows), np.float64, count),
            answer_chars=np.fromiter((len(row.draft.completion or "") for row in rows), np.uint32, count),
            # question, context and answer make two rows alike; not the hint, which many rows share
            fingerprints=fingerprint_normal(said),
            passages=passages_of_normal(said, self._settings.passage_words),
            quotes=self._quotes.find(said),
        )

    def _count(self, row: _Row) -> None:
        self._statistics.add(
            row.draft,
            split=side(row.place, self._settings.held_out_share),
            flaws=row.flaws,
            tokens=row.tokens,
            language=row.language,
            quality=row.quality.score,
        )
        if self._worst.takes(row.quality.score):
            self._worst.add(
                ScoredRow(
                    row_id=row.row_id,
                    where=row.where,
                    score=row.quality.score,
                    components=row.quality.components,
                    codes=tuple(flaw.code for flaw in row.flaws),
                    excerpt=row.draft.user[:EXCERPT_CHARS],
                )
            )


def student_chat(draft: Draft, student: Student) -> Chat:
    """Return the chat the student would learn from a row, or the prompt it would answer."""
    turns = {name: tuple(Message(**turn.given()) for turn in getattr(draft, name)) for name in ("history", "steps")}
    row = prompt_row(draft, "", "train").model_copy(update=turns)
    answer = Message(role="assistant", content=draft.completion or "", tool_calls=draft.answer_tool_calls)
    messages = [message.for_template() for message in (*student_messages(row, student.context_distillation), answer)]
    answered = draft.completion is not None
    return Chat(messages if answered else messages[:-1], list(draft.tools) or None, answered)


def row_id_of(draft: Draft) -> str:
    """Return the id of a row: the hash of all that shapes its chat."""
    return digest_of(draft.shaping())[:ID_DIGITS]


def texts_of(draft: Draft) -> dict[str, str]:
    """Return the texts a person may edit, those that are there."""
    return {field: text for field in TEXT_FIELDS if (text := getattr(draft, field))}


def _set_aside(flaw: Flaw, where: str, draft: Draft) -> Reject:
    return flaw.at(where, row_id_of(draft), texts_of(draft))


def prompt_row(draft: Draft, row_id: str, split: Split) -> PromptRow:
    """Return the draft as a row; its fields are known to be right, so they are not validated again."""
    return PromptRow.model_construct(
        row_id=row_id,
        split=split,
        system=draft.system,
        context=draft.context,
        user=draft.user,
        requires_json=draft.requires_json,
        tool_name=draft.tool_name,
        tool_schema=draft.tool_schema,
        completion=draft.completion,
        extra=draft.extra,
        history=cast(tuple[Message, ...], draft.history),
        steps=cast(tuple[Message, ...], draft.steps),
        tools=draft.tools,
        answer_tool_calls=draft.answer_tool_calls,
    )


def _key(shaping: dict[str, Any], normal: dict[str, str]) -> int:
    """Return a hash of all that shapes the chat, in which case, white space and the kind of quotes do not count."""
    others = {name: _normal(value) for name, value in shaping.items() if value and name not in normal}
    answered = shaping["completion"] is not None
    hashed = hashlib.blake2b(canonical_json([others, answered]) if others else b"%d" % answered, digest_size=8)
    for name in _TEXTS:  # each with its length before it, so that no text reads on into the next
        text = normal.get(name, "").encode("utf-8", "surrogatepass")
        hashed.update(b"|%d|" % len(text))
        hashed.update(text)
    return int.from_bytes(hashed.digest(), "little")


def _normal(tree: Any) -> Any:
    if isinstance(tree, str):
        return normalise(tree)
    if isinstance(tree, dict):
        return {key: _normal(value) for key, value in tree.items()}
    return [_normal(value) for value in tree] if isinstance(tree, list) else tree
