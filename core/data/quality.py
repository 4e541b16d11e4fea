"""How good a row is, in [0, 1], from what the rules found; each component is shown. The worst rows are kept for review."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from core.contract import Contract, Severity
from core.data.flaws import Flaw
from core.data.limits import QualityWeights, RuleLimits
from core.data.repetition import folded_words
from core.data.subject import Subject

_ENCODING = frozenset({"mojibake", "control-characters", "chat-markup"})
_VARIETY_WORDS = 20  # shorter texts have too few words to tell variety from chance
_VARIED = 0.5  # prose of 50 to 500 words has about half of its words different, or more


class Quality(Contract):
    """A row's score, the weighted mean of its components; a component that does not apply is None and weighs nothing."""

    score: float
    components: dict[str, float | None]


def quality(
    subject: Subject,
    flaws: Sequence[Flaw],
    limits: RuleLimits,
    weights: QualityWeights,
    told: Mapping[str, float | None] | None = None,
) -> Quality:
    """Score a row by its texts and by the flaws the rules found in it; a row with an error scores 0.

    `told` adds components that only a teacher can tell: `consistency` and `confidence`.
    """
    codes = {flaw.code for flaw in flaws}
    text = subject.user if subject.answer is None else subject.answer
    _, words = folded_words(text)
    components = {
        "length": min(1.0, len(words) / weights.full_words) if subject.prose or subject.answer is None else None,
        "variety": _variety(words, repeats="repetition" in codes),
        "language": _language(flaws) if limits.languages else None,
        "ratio": _ratio(subject, limits) if subject.prose else None,
        "encoding": 0.0 if codes & _ENCODING else 1.0,
        "ending": (0.0 if "truncated" in codes else 1.0) if subject.prose else None,
        "warnings": 1 / (1 + sum(flaw.severity is Severity.WARNING for flaw in flaws)),
        **(told or {}),
    }
    failed = any(flaw.severity is Severity.ERROR for flaw in flaws)
    return Quality(score=0.0 if failed else _mean(components, weights), components=components)


def _mean(components: dict[str, float | None], weights: QualityWeights) -> float:
    shown = [(value, float(getattr(weights, name))) for name, value in components.items() if value is not None]
    total = sum(weight for _, weight in shown)
    return sum(value * weight for value, weight in shown) / total if total else 0.0


def _variety(words: Sequence[str], *, repeats: bool) -> float | None:
    if repeats:
        return 0.0
    if len(words) < _VARIETY_WORDS:
        return None
    return min(1.0, len(set(words)) / len(words) / _VARIED)


def _language(flaws: Sequence[Flaw]) -> float:
    return 0.0 if any(flaw.code == "language" for flaw in flaws) else 1.0


def _ratio(subject: Subject, limits: RuleLimits) -> float:
    """Return 1 inside half the limits on a logarithmic scale, falling to 0 at the limits."""
    asked = max(1, len(subject.user) + len(subject.context or ""))
    lean = math.log(len(subject.prose) / asked)
    most = math.log(limits.max_answer_to_prompt) if lean > 0 else math.log(limits.max_prompt_to_answer)
    return max(0.0, min(1.0, 2 * (1 - abs(lean) / most))) if most > 0 else 0.0


class ScoredRow(Contract):
    """A row with its score, each component, and the codes of what the rules found in it."""

    row_id: str
    where: str
    score: float
    components: dict[str, float | None]
    codes: tuple[str, ...]
    excerpt: str


class Worst:
    """Keeps the rows with the lowest scores, at most so many; the order in which they come changes nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[ScoredRow] = []
        self._highest = math.inf

    def takes(self, score: float) -> bool:
        """Say whether a row with this score may be among the worst so far."""
        return score <= self._highest

    def add(self, row: ScoredRow) -> None:
        """Offer one row."""
        self._rows.append(row)
        if len(self._rows) >= 2 * self._most + 1:
            self._rows = self.rows()
            self._highest = self._rows[-1].score

    def rows(self) -> list[ScoredRow]:
        """Return the worst first, equals by id."""
        return sorted(self._rows, key=lambda row: (row.score, row.row_id))[: self._most]
