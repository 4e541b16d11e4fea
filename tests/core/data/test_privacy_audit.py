"""The audit of the privacy pass: one line a run, only ever added, with what decided and what was counted, and no value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.config import DataConfig
from core.data import personal_patterns
from core.data.limits import PrivacyLimits
from core.data.privacy_audit import AuditLine, tools
from core.data.validate import validate
from core.errors import NoRowsLeft
from core.events import Event, Note
from core.files import sha256_of
from core.workspace import Workspace

REDACTING = PrivacyLimits(redact=True)


def source_of(folder: Path, *more: str) -> str:
    questions = [f"Question {number}?" for number in range(9)]
    path = folder / "people of marie.jsonl"
    path.write_text("".join(f"{json.dumps({'user': text})}\n" for text in (*questions, *more)), encoding="utf-8")
    return str(path)


def lines_of(workspace: Workspace) -> list[AuditLine]:
    return [AuditLine.model_validate_json(line) for line in workspace.privacy_audit.read_bytes().splitlines()]


def test_every_run_adds_a_line_that_tells_kinds_counts_rules_and_hashes(
    workspace: Workspace, tmp_path: Path, events: list[Event]
) -> None:
    source = source_of(tmp_path, "Write to marie@tremblay.ca or 514-987-1234?")
    config = DataConfig(sources=(source,), privacy=REDACTING)

    first = validate(config, workspace, events.append)
    before = workspace.privacy_audit.read_bytes()
    validate(config, workspace)

    made, reused = lines_of(workspace)
    assert workspace.privacy_audit.read_bytes().startswith(before)
    assert (made.dataset, made.reused, reused.reused) == (first.artifact_id, False, True)
    assert made.report.counts == reused.report.counts == {"email": 1, "phone": 1}
    assert (made.report.rows, made.report.rows_redacted, made.report.not_checked) == (10, 1, ("name",))
    assert [(entry.name, entry.sha256, entry.records) for entry in made.sources] == [
        ("people of marie.jsonl", sha256_of(Path(source)), 10)
    ]
    assert made.rules == first.tools["privacy_rules"] == tools(REDACTING)["privacy_rules"]
    assert b"tremblay" not in before
    assert b"514" not in made.report.model_dump_json().encode()
    told = [event.text for event in events if isinstance(event, Note)]
    assert told == ["the privacy pass replaced values in 1 of 10 records: 1 email, 1 phone"]


def test_a_run_without_the_privacy_pass_leaves_no_line(workspace: Workspace, tmp_path: Path) -> None:
    dataset = validate(DataConfig(sources=(source_of(tmp_path),)), workspace)

    assert not workspace.privacy_audit.exists()
    assert "privacy_rules" not in dataset.tools


def test_a_run_that_the_gate_stops_leaves_its_line_too(workspace: Workspace, tmp_path: Path) -> None:
    config = DataConfig(sources=(source_of(tmp_path),), privacy=REDACTING, min_rows=50)

    with pytest.raises(NoRowsLeft):
        validate(config, workspace)

    assert len(lines_of(workspace)) == 1


def test_other_rules_are_another_dataset(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(sources=(source_of(tmp_path),), privacy=REDACTING)
    first = validate(config, workspace)
    changed = tmp_path / "personal_patterns.py"
    changed.write_bytes(Path(str(personal_patterns.__file__)).read_bytes() + b"\n# another rule\n")

    monkeypatch.setattr(personal_patterns, "__file__", str(changed))
    second = validate(config, workspace)

    assert second.artifact_id != first.artifact_id
    assert lines_of(workspace)[0].rules != lines_of(workspace)[1].rules
