"""The privacy pass, opt-in: personal data and secrets out of a row's texts, placeholders in; counted by kind, never kept.

What each kind looks like is in personal_patterns.py and secret_patterns.py. Names of people need a model, which other packages
bring (name_finders.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, get_args

from core.contract import Contract
from core.data import personal_patterns as patterns
from core.data.flaws import Flaw
from core.data.limits import PersonalKind, PrivacyLimits
from core.data.secret_patterns import secrets_in

NameFinder = Callable[[str], Iterable[tuple[int, int]]]

REDACTED = "<REDACTED>"
_ROUNDS = 8  # each takes something out; text that still shows values after so many is made to

# What is found first wins where two overlap.
_FINDERS: tuple[tuple[PersonalKind, Callable[[str], Iterator[tuple[int, int]]]], ...] = (
    ("secret", secrets_in),
    ("email", patterns.emails_in),
    ("iban", patterns.ibans_in),
    ("national-id", patterns.national_ids_in),
    ("card", patterns.cards_in),
    ("ip", patterns.ips_in),
    ("address", patterns.addresses_in),
)
_WITH_DIGITS = frozenset({"iban", "card", "national-id", "phone", "ip", "address"})


class NamesUnknown(ValueError):
    """A finder of names failed on a text, so nobody can say that no name is left in it."""


@dataclass(frozen=True)
class Redacted:
    """A row's tree without its personal data; `tree` is None when that could not be had, and `refusal` says why, without values."""

    tree: Any
    counts: Counter[PersonalKind]
    refusal: Flaw | None = None


class PrivacyReport(Contract):
    """How much was redacted in a pass, by kind; values are nowhere."""

    rows: int
    rows_redacted: int
    rows_set_aside: int
    counts: dict[PersonalKind, int]
    checked: tuple[PersonalKind, ...]
    not_checked: tuple[PersonalKind, ...]


class PrivacyTally:
    """Counts what a pass redacts."""

    def __init__(self, limits: PrivacyLimits, names: NameFinder | None = None) -> None:
        self._checked = tuple(kind for kind in limits.kinds if kind != "name" or names)
        self._rows = self._redacted = self._set_aside = 0
        self._counts: Counter[PersonalKind] = Counter()

    def add(self, redacted: Redacted) -> None:
        """Count one row."""
        self._rows += 1
        self._set_aside += redacted.refusal is not None
        self._redacted += bool(redacted.counts) and redacted.refusal is None
        self._counts.update(redacted.counts)

    def report(self) -> PrivacyReport:
        """Return what was counted and which kinds were not looked for."""
        kinds: tuple[PersonalKind, ...] = get_args(PersonalKind)
        return PrivacyReport(
            rows=self._rows,
            rows_redacted=self._redacted,
            rows_set_aside=self._set_aside,
            counts={kind: self._counts[kind] for kind in kinds if self._counts[kind]},
            checked=self._checked,
            not_checked=tuple(kind for kind in kinds if kind not in self._checked),
        )


def joined(reports: Sequence[PrivacyReport]) -> PrivacyReport:
    """Return what several parts of a pass counted; ValueError without a part."""
    if not reports:
        raise ValueError("no report to join")
    counts: Counter[PersonalKind] = Counter()
    for report in reports:
        counts.update(report.counts)
    return reports[0].model_copy(
        update={
            "rows": sum(report.rows for report in reports),
            "rows_redacted": sum(report.rows_redacted for report in reports),
            "rows_set_aside": sum(report.rows_set_aside for report in reports),
            "counts": {kind: counts[kind] for kind in get_args(PersonalKind) if counts[kind]},
        }
    )


def redact(tree: Any, limits: PrivacyLimits, names: NameFinder | None = None) -> Redacted:
    """Return a JSON tree with every personal value in its texts and keys replaced, one placeholder a value.

    A value found in one place is replaced wherever it stands in the row. Numbers are looked at as the text they print.
    """
    placeholders: dict[str, str] = {}
    counts: Counter[PersonalKind] = Counter()
    numbers: Counter[PersonalKind] = Counter()
    for _ in range(_ROUNDS):
        try:
            found = [(text, find(text, limits, names)) for text in _texts(tree)]
        except NamesUnknown as error:
            return Redacted(None, counts, _refusal("personal-data-unchecked", f"names could not be looked for: {error}"))
        if not any(spans for _, spans in found):
            return Redacted(tree, counts)
        for text, spans in found:
            for start, end, kind in spans:
                counts[kind] += 1
                if (value := text[start:end]) not in placeholders:
                    numbers[kind] += 1
                    placeholders[value] = f"<{kind.upper().replace('-', '_')}_{numbers[kind]}>"
        if len(placeholders) > limits.max_values:
            reason = f"the row holds {len(placeholders)} personal values > data.privacy.max_values {limits.max_values}"
            return Redacted(None, counts, _refusal("personal-data-excess", reason))
        tree = _mapped(tree, partial(_replaced, dict(found), placeholders))
    return Redacted(None, counts, _refusal("personal-data-excess", f"after {_ROUNDS} rounds there is still personal data"))


def _refusal(code: str, reason: str) -> Flaw:
    return Flaw(code, None, REDACTED, reason)


def redact_flaw(flaw: Flaw, limits: PrivacyLimits, names: NameFinder | None = None) -> Flaw:
    """Return a flaw whose value and reason hold no personal data; call it before `Flaw.at` cuts the excerpt."""
    redacted = redact({"value": flaw.value, "reason": flaw.reason}, limits, names)
    if redacted.refusal:
        return replace(flaw, value=REDACTED, reason=f"the reason of {flaw.code} holds personal data")
    return replace(flaw, value=redacted.tree["value"], reason=redacted.tree["reason"])


def find(text: str, limits: PrivacyLimits, names: NameFinder | None = None) -> list[tuple[int, int, PersonalKind]]:
    """Return where personal data stands in a text, in order and without overlap."""
    has_digit = any(map(text.__contains__, "0123456789"))
    found: list[tuple[int, int, PersonalKind]] = []
    for kind, finder in _FINDERS:
        if kind in limits.kinds and (has_digit or kind not in _WITH_DIGITS):
            found += ((*span, kind) for span in finder(text))
    if "phone" in limits.kinds and has_digit:
        found += ((*span, "phone") for span in patterns.phones_in(text, limits.regions))
    if "name" in limits.kinds and names:
        found += ((*span, "name") for span in names(text))
    return _apart(found)


def _apart(found: list[tuple[int, int, PersonalKind]]) -> list[tuple[int, int, PersonalKind]]:
    """Join what overlaps into one find of the kind that was found first, so that no end of either stays."""
    rank = {id(entry): place for place, entry in enumerate(found)}
    joined: list[tuple[int, int, PersonalKind]] = []
    best = 0
    for entry in sorted(found, key=lambda entry: entry[:2]):
        start, end, kind = entry
        if joined and start < joined[-1][1]:
            first, last, before = joined[-1]
            joined[-1] = (first, max(last, end), kind if rank[id(entry)] < best else before)
            best = min(best, rank[id(entry)])
        else:
            joined.append(entry)
            best = rank[id(entry)]
    return joined


def _replaced(
    found: Mapping[str, Sequence[tuple[int, int, PersonalKind]]], placeholders: Mapping[str, str], text: str
) -> str:
    parts, done = [], 0
    for start, end, _ in found.get(text, ()):
        parts += [text[done:start], placeholders[text[start:end]]]
        done = end
    text = "".join([*parts, text[done:]])
    for value in sorted(placeholders, key=len, reverse=True):
        if value in text:
            text = text.replace(value, placeholders[value])
    return text


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _texts(value)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield str(tree)


def _mapped(tree: Any, change: Callable[[str], str]) -> Any:
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, dict):
        return {_mapped(key, change): _mapped(value, change) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_mapped(value, change) for value in tree]
    if isinstance(tree, int | float) and not isinstance(tree, bool):
        shown = str(tree)
        return tree if (changed := change(shown)) == shown else changed
    return tree
