"""The registry of rules that judge one row: what each is called, how much it matters, how to mend what it finds.

The checks are in text_rules.py and answer_rules.py, their thresholds in limits.py; duplicates are found elsewhere. The same
rules judge a draft, a labelled chat and a teacher's answer: rules about answers look away while there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from core.contract import Severity
from core.data import answer_rules, text_rules
from core.data.flaws import REMEDIES, Flaw
from core.data.limits import RuleLimits
from core.data.subject import Subject

Check = Callable[[Subject, RuleLimits], Flaw | None]


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a row. `check` returns a flaw with this rule's code, or None; it changes nothing.

    `distribution` names the package a third-party rule comes from.
    """

    code: str
    severity: Severity
    check: Check
    remedy: str
    distribution: str = ""


def _error(check: Check) -> Rule:
    return _rule(check, Severity.ERROR)


def _warning(check: Check) -> Rule:
    return _rule(check, Severity.WARNING)


def _rule(check: Check, severity: Severity) -> Rule:
    code = getattr(check, "__name__", "").replace("_", "-")
    return Rule(code, severity, check, REMEDIES[code])


RULES: tuple[Rule, ...] = (
    _error(text_rules.empty_user),
    _error(text_rules.empty_completion),
    _error(text_rules.null_text),
    _error(text_rules.too_long),
    _error(answer_rules.answer_too_long),
    _error(answer_rules.schema_missing),
    _error(answer_rules.schema_invalid),
    _error(answer_rules.answer_not_json),
    _error(answer_rules.answer_misfits_schema),
    _error(answer_rules.tool_call_misfits),
    _warning(text_rules.mojibake),
    _warning(text_rules.control_characters),
    _warning(text_rules.chat_markup),
    _warning(text_rules.language),
    _warning(text_rules.repetition),
    _warning(text_rules.missing_text),
    _warning(text_rules.missing_image),
    _warning(text_rules.missing_url),
    _warning(answer_rules.truncated),
    _warning(answer_rules.refusal),
    _warning(answer_rules.boilerplate),
    _warning(answer_rules.answer_in_prompt),
    _warning(answer_rules.ratio_outlier),
    _warning(answer_rules.degenerate_answer),
)


def judge(subject: Subject, limits: RuleLimits, rules: Iterable[Rule] = RULES) -> tuple[Flaw, ...]:
    """Return what the rules find in a row, in their order; an error ends the search, as the row is set aside."""
    found: list[Flaw] = []
    for rule in rules:
        if (flaw := rule.check(subject, limits)) is not None:
            found.append(replace(flaw, severity=rule.severity, remedy=rule.remedy))
            if rule.severity is Severity.ERROR:
                break
    return tuple(found)
