"""A check of another package: a real distribution on the path, with checks that work, crash, hang and lie."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.contract import Finding, Severity
from core.env import third_party
from core.env.capability import Context
from core.env.check import Examination, look, parts
from core.env.machine.capability import CAPABILITY

PYPROJECT_ENTRY_POINTS = """\
[edgekiln.env_checks]
shop-floor = shop_floor.doctor:look
crashes = shop_floor.doctor:crash
hangs = shop_floor.doctor:hang
lies = shop_floor.doctor:lie
needs-root = shop_floor.doctor:peek
broken-import = shop_floor.gone:look
disk = shop_floor.doctor:look
bad name = shop_floor.doctor:look
no-function = shop_floor.doctor
cooks = shop_floor.doctor:cook
"""
MODULE = """
import ctypes, os, time
from pathlib import Path
from core.contract import Contract, Finding, Severity
from core.env.third_party import Told
from core.nouns import Fact

class Other(Contract):
    colour: str = "green"

def look(argument):
    finding = Finding(
        code="ignored", severity=Severity.ERROR, where=argument["workspace"], evidence="the kiln is cold, 20 C < 900 C",
        cause="nobody lit it", remedy="Light it.", roles=("trainer",),
    )
    return Told(findings=(finding,), facts=(Fact(name="kiln", value=argument["profile"]["name"], source="shop floor"),))

def cook(argument):
    told = look(argument)
    return Told(findings=(told.findings[0].model_copy(update={"roles": ("chef",)}), told.findings[0]))

def crash(argument):
    ctypes.string_at(0)

def hang(argument):
    time.sleep(60)

def peek(argument):
    if os.getuid() == 0:
        os.setuid(65534)
    return Told(facts=(Fact(name="secret", value=Path("/etc/shadow").read_text(), source="/etc/shadow"),))

def lie(argument):
    return Other()
"""


@pytest.fixture
def shop_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay the package and its metadata out as an installer does, and put it on this process's path and its children's."""
    folder = tmp_path / "site"
    (folder / "shop_floor").mkdir(parents=True)
    (folder / "shop_floor" / "__init__.py").write_text("", encoding="utf-8")
    (folder / "shop_floor" / "doctor.py").write_text(MODULE, encoding="utf-8")
    info = folder / "shop_floor-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-floor\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(PYPROJECT_ENTRY_POINTS, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return folder


def examined(context: Context) -> Examination:
    others = third_party.capabilities(third_party.entry_points(), [check.code for check in CAPABILITY.checks])
    return look(context, others)


def test_every_third_party_check_works_or_is_a_finding_of_its_own(
    shop_floor: Path, context: Callable[..., Context]
) -> None:
    started = time.perf_counter()

    seen = examined(context(probe_timeout_s=4.0))

    assert time.perf_counter() - started < 15
    found = {each.finding.code: each.finding for each in seen.judged}
    assert isinstance(found["shop-floor"], Finding)
    assert found["shop-floor"].severity is Severity.ERROR
    assert "20 C < 900 C" in found["shop-floor"].evidence
    assert [fact.value for fact in seen.facts] == ["demo"]
    assert "signal SIGSEGV" in found["crashes"].evidence
    assert "ran > 4 s" in found["hangs"].evidence
    assert "did not return core.env.third_party.Told" in found["lies"].evidence
    assert "ModuleNotFoundError" in found["broken-import"].evidence
    assert "PermissionError" in found["needs-root"].evidence
    assert "taken by another check" in found["disk"].evidence
    assert "env.skip" not in found["disk"].remedy  # that would leave this machine's own check out
    assert "env.skip='[lies]'" in found["lies"].remedy
    cooks = [each.finding.evidence for each in seen.judged if each.finding.code == "cooks"]
    assert cooks[0].startswith("its finding ignored names 'chef', which is none of labeler, ")
    assert "the kiln is cold" in cooks[1]
    assert "is not `code = module:function`" in found["bad name"].evidence
    assert "is not `code = module:function`" in found["no-function"].evidence
    broken = set(found) - {"shop-floor", "cooks"}
    assert {found[code].severity for code in broken} == {Severity.WARNING}
    assert all("shop-floor" in found[code].where for code in broken)


def test_a_third_party_check_can_be_skipped_and_enters_the_reports_identity(
    shop_floor: Path, context: Callable[..., Context]
) -> None:
    names = [point.name for point in third_party.entry_points()]

    assert "shop-floor" in {check.code for part in parts(third_party.entry_points()) for check in part.checks}
    assert examined(context(skip=tuple(names))).readings == {}
    assert third_party.versions(third_party.entry_points())["check shop-floor"] == "shop_floor.doctor:look 1.2"


def test_a_role_a_third_party_check_does_not_name_is_untouched(shop_floor: Path, context: Callable[..., Context]) -> None:
    from core.env.roles import Role

    names = [point.name for point in third_party.entry_points() if point.name != "shop-floor"]

    assert examined(context((Role.BOARD,), skip=tuple(names))).judged == []
