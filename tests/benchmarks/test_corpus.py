"""The generated corpus is what it says: the same bytes for a seed, every fault planted where the truth says."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.corpus import SHARES, clean_row, kind_of, planted_row, write_corpus
from tests.benchmarks.corpus_faults import FAULTS, line_of

ROWS = 6000


def test_a_corpus_is_the_same_bytes_for_its_rows_and_seed(tmp_path: Path) -> None:
    one, same, longer, other = (
        write_corpus(tmp_path / name, rows, seed)
        for name, rows, seed in (("a", 300, 1), ("b", 300, 1), ("c", 400, 1), ("d", 300, 2))
    )

    assert one.path.read_bytes() == same.path.read_bytes()
    assert longer.path.read_bytes().startswith(one.path.read_bytes())
    assert other.path.read_bytes() != one.path.read_bytes()


def test_the_truth_names_every_planted_row_by_its_line(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, ROWS, 4)
    lines = corpus.path.read_bytes().splitlines(keepends=True)
    truth = {row["line"]: row for row in map(json.loads, corpus.truth.read_text(encoding="utf-8").splitlines())}

    assert len(lines) == ROWS
    assert corpus.size_bytes == corpus.path.stat().st_size
    assert all((number + 1 in truth) == (lines[number] != line_of(clean_row(4, number))) for number in range(ROWS))
    assert sum(corpus.planted.values()) == len(truth)
    for row in truth.values():
        if "of" in row and row["kind"] != "contamination":
            assert row["of"] < row["line"]
            assert kind_of(4, row["of"] - 1) is None


def test_every_kind_of_fault_is_planted(tmp_path: Path) -> None:
    kinds = {kind_of(0, number) for number in range(ROWS)}

    assert kinds == {None, *SHARES}
    assert set(FAULTS) < set(SHARES)


def test_a_copy_resembles_its_original_and_only_an_exact_one_is_equal() -> None:
    copies: dict[str, int] = {}
    for number in range(2000):
        row, truth = planted_row(0, number)
        if truth and truth["kind"] in {"exact-duplicate", "near-duplicate"}:
            assert isinstance(row, dict)
            original = clean_row(0, truth["of"] - 1)
            same = [_plain(turn["content"]) for turn in row["messages"]] == [
                _plain(t["content"]) for t in original["messages"]
            ]
            assert same == (truth["kind"] == "exact-duplicate")
            copies[truth["kind"]] = copies.get(truth["kind"], 0) + 1

    assert len(copies) == 2


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def test_half_of_the_rows_are_french_and_a_row_has_about_560_characters() -> None:
    rows = [clean_row(0, number) for number in range(1000)]
    chars = [sum(len(turn["content"]) for turn in row["messages"]) for row in rows]

    assert 450 < sum(row["language"] == "fr" for row in rows) < 550
    assert 500 < sum(chars) / len(chars) < 620
