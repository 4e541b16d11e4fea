"""Rules from other packages: found by the entry-point group `edgekiln.data_rules`, run behind a guard.

An entry point names a `core.data.rules.Rule`, a sequence of them, or a function without arguments that returns either:

    [project.entry-points."edgekiln.data_rules"]
    shouting = "my_package.rules:SHOUTING"

A rule's `check(subject, limits)` returns `core.data.flaws.Flaw` or None; its code must be free. One that cannot be loaded,
raises, or returns something else is left out or looked past, and told as a finding that names its distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType

from core.contract import Finding, Severity
from core.data.flaws import Flaw
from core.data.limits import RuleLimits
from core.data.rules import RULES, Check, Rule
from core.data.subject import Subject

GROUP = "edgekiln.data_rules"
_MESSAGE_CHARS = 120


class RuleMistake(ValueError):
    """An entry point or a rule does not keep to the interface."""


class Guard:
    """Holds what a foreign function raised, as an error of its author's must not end the run."""

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, at: TracebackType | None) -> bool:
        self.raised = raised
        return isinstance(raised, Exception | SystemExit)


@dataclass
class GuardedCheck:
    """A foreign rule's check that never raises; it counts its failures and keeps the first."""

    check: Check
    code: str
    failures: int = 0
    first: str = ""

    def __call__(self, subject: Subject, limits: RuleLimits) -> Flaw | None:
        """Return the flaw, None when there is none or when the check failed."""
        with Guard() as guard:
            flaw = self.check(subject, limits)
            if flaw is not None and not (isinstance(flaw, Flaw) and flaw.code == self.code):
                raise RuleMistake(f"the check of {self.code} returned {type(flaw).__name__}, not a flaw of its own code")
            return flaw
        self.failures += 1
        self.first = self.first or told(guard.raised)
        return None


def load_rules() -> tuple[tuple[Rule, ...], tuple[Finding, ...]]:
    """Return edgekiln's own rules followed by all foreign ones, guarded, and a finding for each that cannot be used."""
    rules, findings = list(RULES), []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (origin(entry), entry.name)):
        with Guard() as guard:
            rules += _rules_of(entry, {rule.code for rule in rules})
        if guard.raised:
            findings.append(_finding(origin(entry), entry.name, f"cannot be loaded: {told(guard.raised)}"))
    return tuple(rules), tuple(findings)


def failures(rules: Iterable[Rule]) -> tuple[Finding, ...]:
    """Return a finding for each foreign rule that failed on rows so far."""
    return tuple(
        _finding(rule.distribution, rule.code, f"failed on {rule.check.failures} rows, first with {rule.check.first}")
        for rule in rules
        if isinstance(rule.check, GuardedCheck) and rule.check.failures
    )


def _rules_of(entry: EntryPoint, taken: set[str]) -> list[Rule]:
    loaded = entry.load()
    if not isinstance(loaded, Rule) and callable(loaded):
        loaded = loaded()
    rules = [loaded] if isinstance(loaded, Rule) else list(loaded)
    for rule in rules:
        if not isinstance(rule, Rule):
            raise RuleMistake(f"it gives {type(rule).__name__}, not a Rule")
        if rule.code in taken:
            raise RuleMistake(f"the code {rule.code} is taken")
        taken.add(rule.code)
    return [_guarded(rule, origin(entry)) for rule in rules]


def _guarded(rule: Rule, origin: str) -> Rule:
    check: Callable[[Subject, RuleLimits], Flaw | None] = GuardedCheck(rule.check, rule.code)
    return replace(rule, check=check, distribution=origin)


def origin(entry: EntryPoint) -> str:
    """Return the distribution an entry point comes from, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"


def told(raised: BaseException | None) -> str:
    """Return what was raised, in a few words."""
    return f"{type(raised).__name__}: {raised}"[:_MESSAGE_CHARS]


def _finding(origin: str, name: str, evidence: str) -> Finding:
    return Finding(
        code="data-rule-failed",
        severity=Severity.WARNING,
        where=f"{origin}, {name}",
        evidence=evidence,
        cause=f"a rule of the entry-point group {GROUP} does not work",
        remedy=f"Update or uninstall {origin.split(maxsplit=1)[0]}, or tell its author.",
    )
