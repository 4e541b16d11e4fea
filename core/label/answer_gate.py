"""The data stage's rules on a teacher's answers: what is wrong sets the row aside, what is odd is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from core.contract import Finding, Severity
from core.data.limits import QualityWeights, RuleLimits
from core.data.quality import quality
from core.data.record import PromptRow, Reject
from core.data.rule_plugins import failures, load_rules
from core.data.rules import judge
from core.data.subject import subject_of

_OF_ANSWERS = frozenset({"completion", "messages"})  # what is odd about a question was told by the data stage


class AnswerGate:
    """Judges the answers of one labelling by the limits its dataset was judged by."""

    def __init__(self, limits: RuleLimits, weights: QualityWeights) -> None:
        self._limits = limits
        self._weights = weights
        self._rules, self._broken = load_rules()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Reject] = {}

    def refuses(self, row: PromptRow, completion: str, tool_calls: Sequence[Mapping[str, Any]]) -> Reject | None:
        """Return why an answer cannot be learned from, None when it can."""
        flaws = judge(subject_of(row, completion, tool_calls), self._limits, self._rules)
        return flaws[-1].at(row.row_id) if flaws and flaws[-1].severity is Severity.ERROR else None

    def score(
        self,
        row: PromptRow,
        completion: str,
        tool_calls: Sequence[Mapping[str, Any]],
        told: Mapping[str, float | None],
    ) -> float:
        """Return the quality of an answer that is kept, in [0, 1]; its warnings are counted.

        `told` holds what the teacher tells of it: how far its samples agree, how sure it was.
        """
        subject = subject_of(row, completion, tool_calls)
        flaws = judge(subject, self._limits, self._rules)
        for flaw in flaws:
            if flaw.field in _OF_ANSWERS:
                self._counts[flaw.code] += 1
                self._first.setdefault(flaw.code, flaw.at(row.row_id))
        return round(quality(subject, flaws, self._limits, self._weights, told).score, 4)

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding for each rule that warned, the commonest first, and those about rules that failed."""
        counted = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        told = (self._finding(self._first[code], count) for code, count in counted)
        return (*told, *self._broken, *failures(self._rules))

    def _finding(self, first: Reject, count: int) -> Finding:
        answers = "1 answer was" if count == 1 else f"{count} answers were"
        return Finding(
            code=f"label-{first.code}",
            severity=Severity.WARNING,
            where=first.where,
            evidence=f"{answers} kept with a warning, here the first: {first.excerpt}",
            cause=first.reason,
            remedy=first.remedy,
        )
