"""Names of people: found by what other packages bring, said plainly where none does, and never let through when one fails."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core.config import DataConfig
from core.contract import Stage
from core.data.flaws import Flaw
from core.data.limits import PrivacyLimits
from core.data.name_finders import GROUP, load_name_finder
from core.data.privacy import PrivacyTally, redact, redact_flaw
from core.data.validate import validate
from core.errors import ToolMissing
from core.files import read_json_lines
from core.workspace import Workspace

LIMITS = PrivacyLimits(redact=True, kinds=("name", "email"))
CAPITALS = """
import re


def names_in(text):
    return [found.span() for found in re.finditer(r"\\b[A-Z][a-zé]+ [A-Z][a-zé]+\\b|NAME", text)]
"""
Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a distribution that finds names on the path, as an installer does."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{name}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\npeople = {name}:names_in\n", encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)

    return put


def test_names_that_are_asked_for_and_cannot_be_found_are_refused_with_what_is_needed(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"user": "Who is Marie Tremblay?"}\n', encoding="utf-8")
    config = DataConfig(sources=(str(tmp_path / "a.jsonl"),), privacy=LIMITS)

    with pytest.raises(ToolMissing) as caught:
        validate(config, workspace)

    assert caught.value.problem == "data.privacy.kinds asks for name, and no installed package finds names"
    assert "entry-point group edgekiln.name_finders" in caught.value.remedy
    assert load_name_finder(PrivacyLimits(kinds=("name",))) is None  # redaction is off
    assert load_name_finder(PrivacyLimits(redact=True)) is None  # names are not asked for


def test_names_are_replaced_by_what_a_package_finds_and_its_placeholders_are_no_names(install: Install) -> None:
    install("capitals", CAPITALS)
    names = load_name_finder(LIMITS)

    redacted = redact(
        {"user": "so Marie Tremblay (m@tremblay.ca) is here?", "note": "marie, Marie Tremblay"}, LIMITS, names
    )
    tally = PrivacyTally(LIMITS, names)
    tally.add(redacted)

    assert redacted.tree == {"user": "so <NAME_1> (<EMAIL_1>) is here?", "note": "marie, <NAME_1>"}
    report = tally.report()
    assert report.counts == {"email": 1, "name": 2}
    assert "name" in report.checked


def test_a_row_a_finder_fails_on_is_set_aside_without_its_text(
    install: Install, workspace: Workspace, tmp_path: Path
) -> None:
    install("fragile", "def names_in(text):\n    if 'Luc' in text:\n        raise ValueError(text)\n    return []\n")
    lines = [f'{{"user": "Question {n}?"}}\n' for n in range(9)]
    (tmp_path / "a.jsonl").write_text("".join([*lines, '{"user": "Where is Luc Roy?"}\n']), encoding="utf-8")

    dataset = validate(DataConfig(sources=(str(tmp_path / "a.jsonl"),), privacy=LIMITS), workspace)

    folder = workspace.folder(Stage.DATA, dataset.artifact_id)
    (reject,) = read_json_lines(folder / "rejects.jsonl")
    assert (reject["code"], reject["excerpt"]) == ("personal-data-unchecked", "<REDACTED>")
    assert reject["reason"] == "names could not be looked for: fragile 2.0 failed with ValueError"
    assert dataset.tools["name_finders"] == "fragile 2.0"
    assert not [path for path in folder.rglob("*") if b"Luc" in path.read_bytes()]


@pytest.mark.parametrize("spans", ["[(0, 99)]", "[(3, 3)]", "[(-1, 2)]", "[3]", "None", "[('a', 'b')]"])
def test_places_that_are_none_count_as_a_failure(install: Install, spans: str) -> None:
    install("confused", f"def names_in(text):\n    return {spans}\n")
    names = load_name_finder(LIMITS)

    redacted = redact({"user": "Marie Tremblay"}, LIMITS, names)
    flaw = redact_flaw(Flaw("json-broken", None, "Marie Tremblay", "no JSON: Marie Tremblay"), LIMITS, names)

    assert redacted.tree is None
    assert redacted.refusal is not None
    assert redacted.refusal.code == "personal-data-unchecked"
    assert "Marie" not in f"{redacted.refusal}{flaw}"


@pytest.mark.parametrize("code", ["import no_such_module", "names_in = 3", "raise SystemExit(3)"])
def test_a_package_that_cannot_be_loaded_stops_the_run(install: Install, code: str) -> None:
    install("broken", code)

    with pytest.raises(ToolMissing, match=r"broken 2\.0, people, cannot be loaded") as caught:
        load_name_finder(LIMITS)

    assert "Update or uninstall broken" in caught.value.remedy
