"""`edgekiln label status|failed|retry|export` on a real ledger and a real labelling behind a scripted endpoint."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from core.config import LabelConfig
from core.contract import Stage
from core.label.label import label
from core.label.ledger import open_ledger
from core.workspace import open_workspace
from flows.cli.main import run
from tests.core.label.conftest import ScriptedTeacher, Step, make_dataset, make_rows, server

__all__ = ["make_dataset", "make_rows", "server"]


@pytest.fixture
def labeled(tmp_path: Path, server: ScriptedTeacher, make_dataset, make_rows) -> Path:
    """Return a workspace in which ten rows are labelled and two set aside: one refused, one cut twice."""
    workspace = open_workspace(tmp_path / "workspace")
    server.script = {
        "Question 001?": [Step(status=400)],
        "Question 002?": [Step(text="cut", finish_reason="length"), Step(text="cut", finish_reason="length")],
    }
    config = LabelConfig.model_validate(
        {
            "teacher": "qwen3-8b",
            "backend": "openai",
            "base_url": server.base_url,
            "prices": {"prompt_per_million": 2.0, "completion_per_million": 3.0},
        }
    )
    label(make_dataset(workspace, make_rows(12)), config, workspace)
    return workspace.root


@pytest.fixture
def call(labeled: Path, capsys: pytest.CaptureFixture[str]):
    def call(*words: str) -> tuple[int, str, str]:
        status = run(["label", *words, "--workspace", str(labeled)])
        return (status, *capsys.readouterr())

    return call


def test_status_tells_what_is_done_and_what_it_took(call) -> None:
    status, out, _ = call("status", "--json")
    told = json.loads(out)
    assert status == 0
    assert (told["session"]["questions"], told["session"]["done"], told["waiting"]) == (12, 12, 0)
    assert (told["session"]["ended"], told["running"]) == ("done", False)
    assert told["session"]["teacher"] == "qwen3-8b"  # as the profile names it
    assert (told["spent"]["requests"], told["spent"]["answered"], told["spent"]["failed"]) == (13, 12, 1)
    assert told["spent"]["cost"] == pytest.approx(12 * (7 * 2 + 3 * 3) / 1e6)
    status, out, _ = call("status")
    assert status == 0
    assert "0.0003 for 12 answers" in out


def test_failed_lists_requests_and_rows_with_their_reasons(call) -> None:
    _, out, _ = call("failed", "--json")
    told = json.loads(out)
    (request,) = told["requests"]
    assert (request["code"], request["asked"]) == ("teacher-refused", "Question 001?")
    assert [(row["where"], row["code"]) for row in told["rows"]] == [
        ("r001", "teacher-refused"),
        ("r002", "teacher-length"),
    ]
    _, out, _ = call("failed", "--show", "1")
    assert "teacher-refused" in out
    assert "teacher-length" not in out


def test_what_failed_tells_how_it_is_asked_again_where_the_labelling_as_a_whole_passed(
    tmp_path: Path, server: ScriptedTeacher, make_dataset, make_rows, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = open_workspace(tmp_path / "workspace")
    server.script = {"Question 001?": [Step(status=500)]}
    config = LabelConfig(teacher="qwen3-8b", backend="openai", base_url=server.base_url, attempts=1)
    dataset = make_dataset(workspace, make_rows(12))
    assert label(dataset, config, workspace).unanswered == 1
    assert run(["label", "failed", "--json", "--workspace", str(workspace.root)]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert run(["label", "failed", "--workspace", str(workspace.root)]) == 0
    assert "edgekiln label --force label sends them again" in capsys.readouterr().out
    assert "edgekiln label --force label" in row["remedy"]
    assert label(dataset, config, workspace).unanswered == 1  # a run that goes on must not change under its training
    assert label(dataset, config, replace(workspace, force=frozenset({Stage.LABEL}))).unanswered == 0
    assert len(server.sent) == 13


def test_where_nothing_failed_that_is_said(workspace, capsys: pytest.CaptureFixture[str]) -> None:
    with open_ledger(workspace.ledger("label")) as ledger:
        ledger.start("artifact", "t", questions=1, reused=0)
    assert run(["label", "failed", "--workspace", str(workspace.root)]) == 0
    assert "every request has its answer" in capsys.readouterr().out


def test_a_retry_discards_answers_and_the_next_labelling_asks_them_anew(
    call, labeled: Path, server: ScriptedTeacher
) -> None:
    status, out, _ = call("retry", "--code", "teacher-length")
    assert status == 0
    assert out.startswith("2 answers discarded")
    before = len(server.sent)
    told = json.loads(call("status", "--json")[1])
    assert told["spent"]["answered"] == 10
    status, _, err = call("retry", "--code", "no-such-code")
    assert status == 2
    assert "no-such-code" in err
    assert len(server.sent) == before


@pytest.mark.parametrize("words", [("status",), ("failed",), ("export", "all.parquet")])
def test_who_only_looks_changes_nothing_in_the_workspace(
    call, labeled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)

    def files() -> dict[Path, tuple[bytes, int]]:
        found = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in labeled.rglob("*") if path.is_file()}
        return {path: found[path] for path in found if not path.name.endswith(("-wal", "-shm"))}

    before = files()
    assert call(*words)[0] == 0
    assert files() == before


def test_the_status_of_a_ledger_from_before_there_were_sessions_tells_its_requests(call, labeled: Path) -> None:
    connection = sqlite3.connect(labeled / "ledger" / "label.sqlite")
    connection.execute("DROP TABLE sessions")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    status, out, _ = call("status")
    assert (status, "12 answered, 1 failed" in out) == (0, True)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_the_ledger_is_written_to_a_file_whole(call, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"all.{ending}"
    status, out, _ = call("export", str(target))
    assert (status, out[:11]) == (0, "13 requests")
    if ending == "jsonl":
        records = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    else:
        records = [
            {**row, "reply": json.loads(row["reply"]) if row["reply"] else None}
            for row in pq.read_table(target).to_pylist()
        ]
    assert len(records) == 13
    assert sum(record["reply"] is not None for record in records) == 12
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_file_that_may_not_be_written_is_named_as_it_was_asked_for(call, ending: str) -> None:
    status, _, err = call("export", f"/proc/all.{ending}")  # where root may make no file either
    assert status == 4
    assert f" /proc/all.{ending}: " in err
    assert "mistake in edgekiln" not in err


def test_a_wrong_ending_a_missing_folder_and_a_missing_ledger_are_said(
    call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("export", "all.csv")[0] == 2
    assert call("export", str(tmp_path / "nowhere" / "all.jsonl"))[0] == 2
    (tmp_path / "all.jsonl").mkdir()
    assert call("export", str(tmp_path / "all.jsonl"))[0] == 2
    (tmp_path / "empty" / "artifacts").mkdir(parents=True)
    assert run(["label", "status", "--workspace", str(tmp_path / "empty")]) == 1
    assert "no teacher was asked" in capsys.readouterr().err
    assert not (tmp_path / "empty" / "ledger").exists()
