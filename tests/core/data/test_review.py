"""A review: the list of rows to look at, as a spreadsheet leaves it, and decisions that the next run heeds."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import DataConfig
from core.contract import Severity, Stage
from core.data import rows_file
from core.data.card_check import read_card
from core.data.decisions import Decision, digest, read_decisions, write_decisions
from core.data.review import ReviewRow, Taken, review_list, take
from core.data.review_file import read_list, write_list
from core.data.validate import validate
from core.errors import BrokenRecord, DecisionRefused, NotUtf8, SourceMissing
from core.events import Event, Found, StageReused
from core.nouns import Dataset
from core.workspace import Workspace

ROWS: list[Any] = [
    {"user": "Name three colours of the rainbow.", "completion": "Red, orange and yellow are three of its colours."},
    {"user": "What is 2 + 2? Answer in one sentence.", "completion": "I'm sorry, but I cannot answer that."},
    {"user": "=1+1 is what?", "completion": "CafÃ© is read in the wrong encoding here."},
    {"user": "Say it long.", "completion": "So " + "very " * 9 + "long."},
    {"user": "", "completion": "An answer to nothing."},
    {"user": "List one.", "completion": "yes", "requires_json": True, "tool_schema": {"type": "object"}},
    "{broken",
]
LENIENT: dict[str, Any] = {"min_rows": 2, "max_rejected_share": 1.0, "rules": {"max_answer_chars": 48}}


def run(workspace: Workspace, tmp_path: Path, events: list[Event] | None = None, **config: Any) -> tuple[Path, Dataset]:
    source = tmp_path / "own.jsonl"
    lines = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in ROWS]
    source.write_text("\n".join(lines), encoding="utf-8")
    heard = events if events is not None else []
    dataset = validate(DataConfig(sources=(str(source),), **{**LENIENT, **config}), workspace, heard.append)
    return workspace.folder(Stage.DATA, dataset.artifact_id), dataset


def decide(workspace: Workspace, folder: Path, answers: dict[str, dict[str, str]], kind: str = "csv") -> Taken:
    """Answer the rows whose findings hold a word, through a file, and keep the decisions."""
    decisions = read_decisions(workspace.decisions)
    path = folder.parent / f"review.{kind}"
    write_list(path, review_list(folder, decisions, 100))
    entries = read_list(path)
    for word, answer in answers.items():
        (entry,) = [entry for entry in entries if word in entry["findings"]]
        entry |= answer
    taken = take(entries, folder, decisions)
    write_decisions(workspace.decisions, taken.decisions)
    return taken


def texts(folder: Path) -> dict[str, str | None]:
    return {row["user"]: row.get("completion") for row in rows_file.read_rows(folder / rows_file.FILE)}


def test_the_list_has_the_worst_first_then_what_can_be_mended_here_then_the_rest(
    workspace: Workspace, tmp_path: Path
) -> None:
    folder, _ = run(workspace, tmp_path)
    listed = review_list(folder, {}, 100)

    scores = [row.score for row in listed if row.state == "kept" and row.score is not None]
    assert scores == sorted(scores)
    assert [row.findings for row in listed if row.state == "set aside"][-1] == "json-broken"
    assert {"empty-user", "answer-not-json"} <= {row.findings for row in listed if row.row_id}
    assert "Name three colours of the rainbow." not in {row.user for row in listed}
    assert len(review_list(folder, {}, 2)) == 2


def test_decisions_survive_and_the_next_run_heeds_them(workspace: Workspace, tmp_path: Path) -> None:
    folder, before = run(workspace, tmp_path)
    taken = decide(
        workspace,
        folder,
        {
            "refusal": {"decision": "Edited ", "completion": "2 + 2 is 4."},
            "mojibake": {"decision": "drop"},
            "answer-not-json": {"decision": "keep"},
            "empty-user": {"decision": "edited", "user": "What is answered?"},
        },
    )
    after_folder, after = run(workspace, tmp_path)

    assert taken.counts == {"keep": 1, "drop": 1, "edited": 2}
    assert texts(after_folder)["What is 2 + 2? Answer in one sentence."] == "2 + 2 is 4."
    assert texts(after_folder)["What is answered?"] == "An answer to nothing."
    assert texts(after_folder)["List one."] == "yes"
    assert "=1+1 is what?" not in texts(after_folder)
    assert after.artifact_id != before.artifact_id
    assert (after.rows, after.rejected) == (before.rows + 1, before.rejected - 1)
    assert after.metrics["rejected"] == 2
    (dropped,) = [finding for finding in after.findings if finding.code == "data-dropped"]
    assert dropped.severity is Severity.INFO
    told = {(rule.code, rule.severity.value) for rule in read_card(after_folder).statistics.findings}
    assert {("answer-not-json", "warning"), ("dropped", "info")} <= told


def test_what_was_decided_is_not_asked_again(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = run(workspace, tmp_path)
    decide(workspace, folder, {"refusal": {"decision": "keep"}, "answer-not-json": {"decision": "keep"}})
    folder, _ = run(workspace, tmp_path)
    found = {row.findings for row in review_list(folder, read_decisions(workspace.decisions), 100)}

    assert "mojibake" in found
    assert not [findings for findings in found if "refusal" in findings or "answer-not-json" in findings]


def test_a_run_without_new_decisions_is_reused(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = run(workspace, tmp_path)
    decide(workspace, folder, {"mojibake": {"decision": "drop"}})
    events: list[Event] = []
    run(workspace, tmp_path)
    run(workspace, tmp_path, events)
    assert [type(event) for event in events if not isinstance(event, Found)] == [StageReused]


def test_a_decision_can_be_forgotten(workspace: Workspace, tmp_path: Path) -> None:
    folder, before = run(workspace, tmp_path)
    (row_id,) = decide(workspace, folder, {"mojibake": {"decision": "drop"}}).decisions
    taken = take([{"decision": "forget", "row_id": row_id}], folder, read_decisions(workspace.decisions))
    write_decisions(workspace.decisions, taken.decisions)
    _, after = run(workspace, tmp_path)

    assert taken.counts == {"forget": 1}
    assert after.artifact_id == before.artifact_id


def test_an_edited_row_can_be_edited_again(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = run(workspace, tmp_path)
    decide(workspace, folder, {"refusal": {"decision": "edited", "completion": "As an AI language model I say 4."}})
    folder, _ = run(workspace, tmp_path)
    decide(workspace, folder, {"boilerplate": {"decision": "edited", "completion": "It is 4."}})
    folder, _ = run(workspace, tmp_path)
    assert texts(folder)["What is 2 + 2? Answer in one sentence."] == "It is 4."


def test_a_ring_of_edits_ends(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = run(workspace, tmp_path)
    decide(workspace, folder, {"refusal": {"decision": "edited", "completion": "As an AI language model I say 4."}})
    folder, _ = run(workspace, tmp_path)
    decide(workspace, folder, {"boilerplate": {"decision": "edited", "completion": "I'm sorry, but I cannot answer that."}})
    folder, _ = run(workspace, tmp_path)
    assert texts(folder)["What is 2 + 2? Answer in one sentence."]


def test_what_a_person_writes_goes_through_the_privacy_pass_too(workspace: Workspace, tmp_path: Path) -> None:
    private = {"privacy": {"redact": True}}
    folder, _ = run(workspace, tmp_path, **private)
    decide(workspace, folder, {"refusal": {"decision": "edited", "completion": "Ask bob@example.com, he knows it."}})
    folder, _ = run(workspace, tmp_path, **private)
    assert texts(folder)["What is 2 + 2? Answer in one sentence."] == "Ask <EMAIL_1>, he knows it."


@pytest.mark.parametrize(
    ("word", "answer", "told"),
    [
        ("json-broken", {"decision": "keep"}, "own.jsonl:7 could not be read (json-broken), so it cannot be kept"),
        ("json-broken", {"decision": "edited"}, "mend it in its source"),
        ("empty-user", {"decision": "keep"}, "cannot be kept as it is (empty-user)"),
        ("refusal", {"decision": "edited"}, "no text is another"),
        ("refusal", {"decision": "edited", "user": "  "}, "the question was emptied"),
        ("refusal", {"decision": "yes"}, "'yes' is none of keep, drop, edited, forget"),
        ("refusal", {"decision": "keep", "row_id": "0" * 16}, "is no row of this dataset"),
        ("refusal", {"decision": "forget"}, "was never decided on"),
    ],
)
def test_a_decision_that_cannot_be_done_is_refused_and_nothing_is_taken(
    workspace: Workspace, tmp_path: Path, word: str, answer: dict[str, str], told: str
) -> None:
    folder, _ = run(workspace, tmp_path)
    with pytest.raises(DecisionRefused) as refused:
        decide(workspace, folder, {word: answer, "mojibake": {"decision": "drop"}})
    assert told in refused.value.problem
    assert read_decisions(workspace.decisions) == {}


def test_all_mistakes_of_a_list_are_told_at_once(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = run(workspace, tmp_path)
    with pytest.raises(DecisionRefused, match=r"entry 1: .*entry 5: .*; 2 more"):
        take([{"decision": "maybe", "row_id": ""}] * 7, folder, {})


def test_dropping_what_could_not_be_read_changes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    folder, _ = run(workspace, tmp_path)
    assert decide(workspace, folder, {"json-broken": {"decision": "drop"}}).decisions == {}


LISTED = st.builds(
    ReviewRow,
    row_id=st.just("0" * 16),
    state=st.just("kept"),
    score=st.none() | st.floats(0, 1),
    findings=st.text(max_size=20),
    where=st.text(max_size=20),
    why=st.text(max_size=20),
    remedy=st.text(max_size=20),
    user=st.text(max_size=40) | st.sampled_from(["=1+1", "'x", "-", "''", "@a", "\n", "a\r\nb", ";", '"']),
    completion=st.text(max_size=40),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LISTED, min_size=1, max_size=4), st.sampled_from(["csv", "jsonl"]))
def test_a_list_comes_back_as_it_was_written(tmp_path: Path, rows: list[ReviewRow], kind: str) -> None:
    path = tmp_path / f"list.{kind}"
    write_list(path, rows)
    entries = read_list(path)
    for name in ("findings", "where", "why", "remedy", "user", "completion"):
        assert [entry[name] for entry in entries] == [getattr(row, name) for row in rows]


def test_no_cell_of_a_list_begins_a_formula(tmp_path: Path) -> None:
    write_list(
        tmp_path / "list.csv",
        [
            ReviewRow(
                row_id="",
                state="kept",
                score=None,
                findings="",
                where="",
                why="",
                remedy="",
                user="=HYPERLINK(1)",
                completion="@x",
            )
        ],
    )
    cells = next(csv.DictReader(io.StringIO((tmp_path / "list.csv").read_text(encoding="utf-8-sig"))))
    assert (cells["user"], cells["completion"]) == ("'=HYPERLINK(1)", "'@x")


@pytest.mark.parametrize(
    "data",
    [
        b"decision;row_id;user\nkeep;1;a, b\n",
        "decision\trow_id\tuser\r\nkeep\t1\ta, b\r\n".encode("utf-16"),
        '\ufeffDecision , row_id,user\nkeep,1,"a, b"\n,,\n'.encode(),
    ],
)
def test_what_a_spreadsheet_makes_of_a_list_is_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "list.csv").write_bytes(data)
    assert read_list(tmp_path / "list.csv") == [{"decision": "keep", "row_id": "1", "user": "a, b"}]


def test_a_text_too_long_for_a_cell_is_left_as_it_is(workspace: Workspace, tmp_path: Path) -> None:
    row = ReviewRow(row_id="0" * 16, state="kept", score=None, findings="", where="", why="", remedy="", user="a" * 32_001)
    write_list(tmp_path / "list.csv", [row])
    (entry,) = read_list(tmp_path / "list.csv")
    assert "user" not in entry
    write_list(tmp_path / "list.jsonl", [row])
    assert len(read_list(tmp_path / "list.jsonl")[0]["user"]) == 32_001


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("list.csv", b"decision,row_id\n\xe9,1\n", NotUtf8),
        ("list.csv", b'decision,row_id\n"keep,1\n', BrokenRecord),
        ("list.csv", b"verdict,row\nkeep,1\n", BrokenRecord),
        ("list.jsonl", b"{\n", BrokenRecord),
        ("list.jsonl", b"[1]\n", BrokenRecord),
    ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, name: str, data: bytes, error: type[Exception]) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(error):
        read_list(tmp_path / name)


def test_a_list_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.data.review_file._MOST_BYTES", 1 << 20)

    with pytest.raises(BrokenRecord, match="/dev/zero has > 1048576 bytes"):
        read_list(Path("/dev/zero"))


def test_a_list_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        read_list(tmp_path / "none.csv")


def test_a_broken_line_among_the_decisions_is_named(workspace: Workspace) -> None:
    write_decisions(workspace.decisions, {"0" * 16: Decision(row_id="0" * 16, decision="keep")})
    with workspace.decisions.open("a") as stream:
        stream.write("\n{}\n")
    with pytest.raises(BrokenRecord, match=r"data\.jsonl:3 is no decision: row_id: Field required"):
        read_decisions(workspace.decisions)


def test_the_order_of_decisions_changes_nothing_and_none_is_no_input() -> None:
    keep, drop = (Decision(row_id=str(place) * 16, decision=word) for place, word in enumerate(("keep", "drop")))  # type: ignore[arg-type]
    assert digest({"a": keep, "b": drop}) == digest({"b": drop, "a": keep})
    assert digest({}) == ()
