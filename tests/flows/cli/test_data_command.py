"""`edgekiln data`: card, diff and review on real datasets, and how bad input ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli.main import run

ROOT = Path(__file__).parents[3]
ROWS = [
    {"user": "Name three colours of the rainbow.", "completion": "Red, orange and yellow are three of its colours."},
    {"user": "What is 2 + 2? Answer in one sentence.", "completion": "I'm sorry, but I cannot answer that."},
    {"user": "Who wrote Les Belles-sœurs, and when was that?", "completion": "Michel Tremblay wrote it in 1965."},
]


@pytest.fixture
def home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A workspace with one dataset in it."""
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    assert validate(tmp_path) == 0
    capsys.readouterr()
    return tmp_path


def edgekiln(home: Path, *arguments: str | Path) -> int:
    return run(["data", *map(str, arguments), "--workspace", str(home / "ws")])


def validate(home: Path, *more: str) -> int:
    return edgekiln(home, home / "own.jsonl", "--set", "data.min_rows=2", "--set", "data.max_rejected_share=1", *more)


def test_the_card_of_the_newest_dataset_is_printed_for_people_and_for_programs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert edgekiln(home, "card") == 0
    assert capsys.readouterr().out.startswith("---\npretty_name: own.jsonl\n")
    assert edgekiln(home, "card", "--json") == 0
    assert json.loads(capsys.readouterr().out)["statistics"]["rows"] == 3
    assert edgekiln(home, "card", "--html") == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")


def test_a_published_card_is_checked_and_its_exit_status_is_the_table_s(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = home / "published"
    assert edgekiln(home, "card", "-o", out) == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "card.json",
        "card.html",
        "train.parquet",
        "held_out.parquet",
    }
    assert edgekiln(home, "card", out, "--check") == 0
    assert edgekiln(home, "card", "--check") == 0
    (out / "train.parquet").write_bytes((out / "held_out.parquet").read_bytes())
    capsys.readouterr()
    assert edgekiln(home, "card", out, "--check") == 3
    told = capsys.readouterr()
    assert "[data-card-mismatch] train.parquet: " in told.err
    assert "the card says" in told.out


def test_a_dataset_that_was_tampered_with_has_no_card(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (card,) = (home / "ws").glob("artifacts/data/*/card.json")
    card.write_text(card.read_text(encoding="utf-8").replace('"rows": 3', '"rows": 4'), encoding="utf-8")
    assert edgekiln(home, "card") == 1
    assert "[artifact-file-tampered]" in capsys.readouterr().err


def test_two_versions_are_held_side_by_side(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgekiln(home, "card", "--json") == 0
    first = json.loads(capsys.readouterr().out)["dataset"]
    (home / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]), encoding="utf-8")
    assert validate(home) == 0
    capsys.readouterr()
    assert edgekiln(home, "card", "--json") == 0
    second = json.loads(capsys.readouterr().out)["dataset"]

    assert edgekiln(home, "diff", first, second, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["gone"], found["added"]) == (1, 0)
    assert edgekiln(home, "diff", first, second) == 0
    assert "Who wrote Les Belles-sœurs" in capsys.readouterr().out


def test_a_review_goes_out_comes_back_and_is_heeded(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = home / "review.jsonl"
    assert edgekiln(home, "review") == 0
    assert "refusal" in capsys.readouterr().out
    assert edgekiln(home, "review", "-o", listed) == 0
    (entry,) = [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]
    listed.write_text(json.dumps({**entry, "decision": "edited", "completion": "2 + 2 is 4."}), encoding="utf-8")
    capsys.readouterr()

    assert edgekiln(home, "review", "--take", listed) == 0
    assert "1 edited; 1 decisions" in capsys.readouterr().out
    assert validate(home, "--json") == 0
    assert not [found for found in json.loads(capsys.readouterr().out)["findings"] if found["code"] == "data-refusal"]
    assert edgekiln(home, "review", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("card", "abc"), 1, "artifact-missing"),
        (("diff", "abc", "abd"), 1, "artifact-missing"),
        (("review", "--take", "none.csv"), 3, "data-missing"),
        (("card", "-o", "README.md/x"), 2, "usage"),
        (("review", "-o", "README.md/x.csv"), 2, "usage"),
        (("schema", "-o", "README.md/x.json"), 2, "usage"),
    ],
)
def test_bad_input_ends_in_two_lines(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    status: int,
    code: str,
) -> None:
    monkeypatch.chdir(ROOT)
    argv = ["data", *arguments] if arguments[0] == "schema" else ["data", *arguments, "--workspace", str(home / "ws")]
    assert run(argv) == status
    problem, remedy = capsys.readouterr().err.strip().splitlines()[-2:]
    assert problem.startswith(f"[{code}] ")
    assert remedy.startswith("Fix: ")


def test_an_empty_workspace_has_no_dataset_to_tell_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert edgekiln(tmp_path, "card") == 1
    assert "no dataset in" in capsys.readouterr().err


def test_a_decision_that_cannot_be_done_is_exit_status_3(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "list.csv").write_text("decision,row_id,where\nkeep,,own.jsonl:9\n", encoding="utf-8")
    assert edgekiln(home, "review", "--take", home / "list.csv") == 3
    assert "[data-decision-refused] entry 1: own.jsonl:9 could not be read" in capsys.readouterr().err


def test_the_schema_printed_is_the_one_published(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (ROOT / "configs/schemas/dataset-card.schema.json").read_bytes()
    )


def test_nothing_of_a_row_drives_the_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"user": "Say \x1b]0;title\x07 it.", "completion": "A \x1b[31mred answer that goes on and then stops."}
    (home / "own.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*ROWS, row]), encoding="utf-8")
    assert validate(home) == 0
    assert edgekiln(home, "review") == 0
    assert edgekiln(home, "card") == 0
    told = capsys.readouterr()
    assert "control-characters" in told.err
    assert "\x1b" not in told.out + told.err
