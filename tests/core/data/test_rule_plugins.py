"""Rules of other packages: a real distribution on the path is found, runs, and cannot end the run by failing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.contract import Severity
from core.data.limits import RuleLimits
from core.data.rule_plugins import GROUP, failures, load_rules
from core.data.rules import RULES, judge
from core.data.subject import Subject

LIMITS = RuleLimits()
SHOUTING = """
from core.contract import Severity
from core.data.flaws import Flaw
from core.data.rules import Rule


def shouts(subject, limits):
    if not subject.user.isupper():
        return None
    return Flaw("shouting", "user", subject.user, "the question is in capitals")


SHOUTING = Rule("shouting", Severity.WARNING, shouts, "Write it in small letters.")


def rules():
    return [SHOUTING]
"""

Install = Callable[[str, str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution with one module and one entry point on the path, as an installer does."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, code: str, target: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nrule = {name}:{target}\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return put


def test_without_other_packages_there_are_edgekilns_rules() -> None:
    assert load_rules() == (RULES, ())


@pytest.mark.parametrize("target", ["SHOUTING", "rules"])
def test_a_foreign_rule_judges_with_the_others(install: Install, target: str) -> None:
    install("loud_rules", SHOUTING, target)

    rules, findings = load_rules()

    assert findings == ()
    assert rules[-1].distribution == "loud_rules 1.2"
    (flaw,) = judge(Subject(user="QUELLE HEURE EST-IL?"), LIMITS, rules)
    reject = flaw.at("rows.jsonl:3")
    assert (reject.code, reject.remedy, flaw.severity) == ("shouting", "Write it in small letters.", Severity.WARNING)
    assert judge(Subject(user="Quelle heure est-il?"), LIMITS, rules) == ()
    assert failures(rules) == ()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("    raise KeyError('heure')", "KeyError: 'heure'"),
        ("    raise SystemExit(3)", "SystemExit: 3"),
        ("    return 'loud'", "RuleMistake: the check of shouting returned str, not a flaw of its own code"),
        (
            "    return Flaw('other', None, '', '')",
            "RuleMistake: the check of shouting returned Flaw, not a flaw of its own code",
        ),
    ],
)
def test_a_rule_that_fails_is_a_finding_with_its_distribution_and_not_the_end(
    install: Install, body: str, told: str
) -> None:
    install("loud_rules", SHOUTING.replace("    if not subject", f"{body}\n    if not subject"), "SHOUTING")
    rules, _ = load_rules()

    for text in ("QUELLE HEURE?", "Quelle heure?", ""):
        assert {flaw.code for flaw in judge(Subject(user=text), LIMITS, rules)} <= {"empty-user"}

    (finding,) = failures(rules)
    assert finding.where == "loud_rules 1.2, shouting"
    assert finding.evidence == f"failed on 2 rows, first with {told}"
    assert "loud_rules" in finding.remedy


@pytest.mark.parametrize(
    ("code", "target", "told"),
    [
        ("import no_such_module", "SHOUTING", "ModuleNotFoundError"),
        (SHOUTING, "WHISPERING", "AttributeError"),
        (SHOUTING.replace('Rule("shouting"', 'Rule("mojibake"'), "SHOUTING", "the code mojibake is taken"),
        ("THINGS = [3]", "THINGS", "it gives int, not a Rule"),
        ("def broken():\n    raise RuntimeError('no model')", "broken", "RuntimeError: no model"),
        ("THING = 3", "THING", "TypeError"),
    ],
)
def test_an_entry_point_that_cannot_be_used_is_a_finding(install: Install, code: str, target: str, told: str) -> None:
    install("broken_rules", code, target)

    rules, findings = load_rules()

    assert rules == RULES
    (finding,) = findings
    assert (finding.code, finding.severity) == ("data-rule-failed", Severity.WARNING)
    assert finding.where == "broken_rules 1.2, rule"
    assert told in finding.evidence


def test_two_packages_cannot_take_one_code(install: Install) -> None:
    install("loud_rules", SHOUTING, "SHOUTING")
    install("more_rules", SHOUTING, "SHOUTING")

    rules, findings = load_rules()

    assert [rule.distribution for rule in rules[len(RULES) :]] == ["loud_rules 1.2"]
    assert [finding.where for finding in findings] == ["more_rules 1.2, rule"]


def test_ctrl_c_in_a_foreign_rule_still_stops_the_run(install: Install) -> None:
    install("slow_rules", SHOUTING.replace("    if not", "    raise KeyboardInterrupt\n    if not"), "SHOUTING")
    rules, _ = load_rules()

    with pytest.raises(KeyboardInterrupt):
        judge(Subject(user="Quelle heure?"), LIMITS, rules)
