"""What a corpus is, counted row by row in bounded memory: lengths, tokens, languages, labels, turns, tools, findings, quality.

The card shows nothing but this and the manifest. Counts of parts add up (`a + b`), so each worker may have its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Literal

from core.contract import Contract, Severity
from core.data.coverage import Coverage, FieldCoverage
from core.data.flaws import Flaw
from core.data.histogram import Distribution, Histogram
from core.data.limits import CoverageLimits
from core.data.privacy import PrivacyReport
from core.data.record import PromptRow, Split
from core.data.shapes import Draft

Part = Literal["question", "prompt", "answer"]

_QUALITY_BINS = 20
_MOST_TOOLS = 1000
_MOST_SHOWN = 100
_NAME_CHARS = 80
_SEVERITIES = tuple(Severity)


class RuleCount(Contract):
    """How many rows a rule found something in; those of severity error were set aside."""

    code: str
    severity: Severity
    rows: int


class QualityCount(Contract):
    """The scores of the kept rows that have one; `bins` are of equal width from 0 to 1, the last holds 1 too."""

    rows: int
    mean: float
    bins: tuple[int, ...]


class LabelCount(Contract):
    """One label field: in how many rows, how many `distinct` values, the commonest with their rows.

    `distinct` is None when there were more than data.coverage.max_values, so that it is free text and no label.
    """

    field: str
    rows: int
    distinct: int | None
    commonest: dict[str, int]


class ToolCount(Contract):
    """Rows that offer a tool, call one, or want JSON; `names` are the commonest tools offered.

    `distinct` is None when there were more than a thousand names.
    """

    rows_offering: int
    rows_calling: int
    rows_requiring_json: int
    distinct: int | None
    names: dict[str, int]


class CorpusStatistics(Contract):
    """What a corpus is. Lengths are in characters: the last question, all the model is shown, the answer.

    `tokens` are of whole chats, None where no tokenizer was at hand. `languages` are ISO 639 codes; rows whose language is
    not sure are in none. `turns` counts those of the chat with its answer, without the system message.
    """

    rows: int
    rejected: int
    splits: dict[Split, int]
    answered: int
    characters: dict[Part, Distribution]
    tokens: Distribution | None
    turns: Distribution | None
    languages: dict[str, int]
    labels: tuple[LabelCount, ...]
    tools: ToolCount
    findings: tuple[RuleCount, ...]
    redactions: PrivacyReport | None
    quality: QualityCount | None


class Statistics:
    """Counts a corpus; the order of the rows changes nothing. It can be pickled."""

    def __init__(self, limits: CoverageLimits) -> None:
        self._limits = limits
        self._rows = self._rejected = self._answered = 0
        self._splits: Counter[Split] = Counter()
        self._characters: dict[Part, Histogram] = {"question": Histogram(), "prompt": Histogram(), "answer": Histogram()}
        self._tokens = Histogram()
        self._turns = Histogram()
        self._languages: Counter[str] = Counter()
        self._coverage = Coverage(limits)
        self._tools = _Tools()
        self._findings: Counter[tuple[str, Severity]] = Counter()
        self._quality = _Quality()

    def add(
        self,
        row: PromptRow | Draft,
        *,
        split: Split,
        flaws: Sequence[Flaw],
        tokens: int | None,
        language: str | None,
        quality: float | None,
    ) -> None:
        """Count a kept row; `flaws` are its warnings, `tokens` those of the whole chat, None for what is not known."""
        self._rows += 1
        self._splits[split] += 1
        self._count_texts(row)
        if tokens is not None:
            self._tokens.add(tokens)
        if language is not None:
            self._languages[language] += 1
        if quality is not None:
            self._quality.add(quality)
        self._coverage.add(row.extra)
        self._tools.add(row)
        self._findings.update((flaw.code, flaw.severity) for flaw in flaws)

    def _count_texts(self, row: PromptRow | Draft) -> None:
        question, answered = len(row.user), row.completion is not None or bool(row.answer_tool_calls)
        shown = question + len(row.system or "") + len(row.context or "")
        if row.history or row.steps:
            shown += sum(len(turn.content) for turn in (*row.history, *row.steps))
        self._characters["question"].add(question)
        self._characters["prompt"].add(shown)
        if row.completion:  # the text of an answer that is a tool call alone is empty
            self._characters["answer"].add(len(row.completion))
        self._answered += answered
        self._turns.add(len(row.history) + 1 + len(row.steps) + answered)

    def reject(self, code: str, severity: Severity = Severity.ERROR) -> None:
        """Count a row that was set aside, by a rule or, with severity info, by a person."""
        self._rejected += 1
        self._findings[code, severity] += 1

    def found(self, code: str, severity: Severity, rows: int = 1) -> None:
        """Count what was found about kept rows after they were added, such as that they resemble each other."""
        self._findings[code, severity] += rows

    def moved(self, old: Split, new: Split, rows: int = 1) -> None:
        """Count that rows changed sides after they were added."""
        self._splits[old] -= rows
        self._splits[new] += rows

    @property
    def coverage(self) -> Coverage:
        """The labels counted, which can tell what is missing."""
        return self._coverage

    def __add__(self, other: Statistics) -> Statistics:
        """Return both together; the order changes nothing."""
        joined = Statistics(self._limits)
        joined._rows = self._rows + other._rows
        joined._rejected = self._rejected + other._rejected
        joined._answered = self._answered + other._answered
        joined._splits = _summed(self._splits, other._splits)
        joined._characters = {part: counted + other._characters[part] for part, counted in self._characters.items()}
        joined._tokens = self._tokens + other._tokens
        joined._turns = self._turns + other._turns
        joined._languages = self._languages + other._languages
        joined._coverage = self._coverage + other._coverage
        joined._tools = self._tools + other._tools
        joined._findings = self._findings + other._findings
        joined._quality = self._quality + other._quality
        return joined

    def result(self, redactions: PrivacyReport | None = None) -> CorpusStatistics:
        """Return what was counted; `redactions` is the privacy pass's own count, None when there was no such pass."""
        characters = {part: counted.distribution() for part, counted in self._characters.items()}
        return CorpusStatistics(
            rows=self._rows,
            rejected=self._rejected,
            splits={"train": self._splits["train"], "held_out": self._splits["held_out"]},
            answered=self._answered,
            characters={part: found for part, found in characters.items() if found},
            tokens=self._tokens.distribution(),
            turns=self._turns.distribution(),
            languages=_by_count(self._languages),
            labels=tuple(map(_label, self._coverage.fields())),
            tools=self._tools.result(),
            findings=tuple(self._told()),
            redactions=redactions,
            quality=self._quality.result(),
        )

    def _told(self) -> list[RuleCount]:
        """Return the findings, errors first, of each severity the commonest first."""
        counted = [RuleCount(code=code, severity=severity, rows=rows) for (code, severity), rows in self._findings.items()]
        return sorted(counted, key=lambda rule: (_SEVERITIES.index(rule.severity), -rule.rows, rule.code))


class _Tools:
    """Counts tools by name until there are too many to be a list of tools."""

    def __init__(self) -> None:
        self.offering = self.calling = self.json = 0
        self.names: Counter[str] | None = Counter()

    def add(self, row: PromptRow | Draft) -> None:
        names = {tool["function"]["name"] for tool in row.tools} | ({row.tool_name} if row.tool_name else set())
        self.offering += bool(names)
        self.calling += bool(row.answer_tool_calls) or any(turn.tool_calls for turn in (*row.history, *row.steps))
        self.json += row.requires_json
        if names and self.names is not None:
            self.names.update(name[:_NAME_CHARS] for name in names)
            self._forget_many()

    def _forget_many(self) -> None:
        if self.names is not None and len(self.names) > _MOST_TOOLS:
            self.names = None

    def __add__(self, other: _Tools) -> _Tools:
        joined = _Tools()
        joined.offering = self.offering + other.offering
        joined.calling = self.calling + other.calling
        joined.json = self.json + other.json
        joined.names = None if self.names is None or other.names is None else self.names + other.names
        joined._forget_many()
        return joined

    def result(self) -> ToolCount:
        return ToolCount(
            rows_offering=self.offering,
            rows_calling=self.calling,
            rows_requiring_json=self.json,
            distinct=None if self.names is None else len(self.names),
            names=_commonest(self.names or {}),
        )


class _Quality:
    """Counts scores; their sum is kept in millionths, so that the order of adding changes nothing."""

    def __init__(self) -> None:
        self.bins: Counter[int] = Counter()
        self.millionths = 0

    def add(self, score: float) -> None:
        self.bins[min(int(score * _QUALITY_BINS), _QUALITY_BINS - 1)] += 1
        self.millionths += round(score * 1_000_000)

    def __add__(self, other: _Quality) -> _Quality:
        joined = _Quality()
        joined.bins = self.bins + other.bins
        joined.millionths = self.millionths + other.millionths
        return joined

    def result(self) -> QualityCount | None:
        rows = self.bins.total()
        if not rows:
            return None
        bins = tuple(self.bins[place] for place in range(_QUALITY_BINS))
        return QualityCount(rows=rows, mean=self.millionths / rows / 1_000_000, bins=bins)


def _summed(left: Counter[Split], right: Counter[Split]) -> Counter[Split]:
    """Return the sums with what is below zero, which `+` leaves out: a part may know of moves only."""
    joined = left.copy()
    joined.update(right)
    return joined


def _label(field: FieldCoverage) -> LabelCount:
    distinct = None if field.values is None else len(field.values)
    return LabelCount(field=field.field, rows=field.rows, distinct=distinct, commonest=_commonest(field.values or {}))


def _commonest(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(islice(_by_count(counts).items(), _MOST_SHOWN))


def _by_count(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
