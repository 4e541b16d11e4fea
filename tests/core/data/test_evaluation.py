"""Evaluation files: their short texts are found where a longer row quotes one whole, and work stays linear."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.evaluation import Evaluation, QuoteFinder, place_of
from core.data.limits import DuplicateLimits
from core.data.overlap import passage_at, passages_of
from core.data.passages import PassageFile
from core.data.readers import open_sources
from core.data.shingles import normalise, words_of

LIMITS = DuplicateLimits()
WORDS = st.sampled_from(("le", "chat", "dort", "sous", "l'arbre,", "2", "Été", "-", "\n"))
TEXTS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=6)


def evaluation_of(folder: Path, texts: list[str], limits: DuplicateLimits = LIMITS) -> Evaluation:
    path = folder / "exam.jsonl"
    path.write_text("".join(json.dumps({"question": text, "more": [{"n": 1}]}) + "\n" for text in texts), encoding="utf-8")
    return Evaluation(open_sources([str(path)], 8), limits)


def quotes_in(evaluation: Evaluation, texts: list[str]) -> list[str | None]:
    found = QuoteFinder(evaluation.quotable()).find([normalise(text) for text in texts]).tolist()
    return [passage_at(text, *place_of(place)) if place >= 0 else None for text, place in zip(texts, found, strict=True)]


@settings(deadline=None)
@given(texts=TEXTS, rows=TEXTS, least=st.integers(3, 5))
def test_exactly_the_short_texts_that_stand_whole_in_a_row_are_found(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], rows: list[str], least: int
) -> None:
    limits = DuplicateLimits(passage_words=8, quoted_words=least)
    evaluation = evaluation_of(tmp_path_factory.mktemp("exam"), ["one", *texts], limits)

    found = quotes_in(evaluation, rows)

    short = [words for text in texts if least <= len(words := words_of(normalise(text))) < 8]
    for row, quote in zip(rows, found, strict=True):
        said = words_of(normalise(row))
        held = [words for words in short if any(said[n : n + len(words)] == words for n in range(len(said)))]
        assert quote == (None if not held else quote)
        assert (quote is None) == (not held)
        if quote is not None:
            assert quote.split(" ") in held
            assert len(quote.split(" ")) == max(map(len, held))


def test_a_short_question_inside_a_longer_row_is_found_through_case_and_punctuation(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["Why is the sky blue?", "in the old town", "Quelle heure est-il?"])

    found = quotes_in(
        evaluation,
        [
            "My son asked me: « why IS the sky  blue »? I said: because of the air.",
            "We live in the old town.",  # four words are an everyday phrase
            "Why is the sky so blue?",
            "the sky blue? Why is",
            "",
        ],
    )

    assert found == ["why is the sky blue", None, None, None, None]


def test_a_long_passage_is_told_before_a_quote_and_rows_without_either_are_not(tmp_path: Path) -> None:
    passage = " ".join(f"w{number}" for number in range(14))
    evaluation = evaluation_of(tmp_path, [passage, "why is the sky blue"])
    rows = [f"why is the sky blue {passage}", "say why is the sky blue", "nothing of the kind here"]
    quotes = QuoteFinder(evaluation.quotable()).find([normalise(row) for row in rows])

    with closing(PassageFile(tmp_path / "passages.bin")) as file:
        file.add(passages_of(rows), np.ones(3, dtype=np.bool_))
        places = [place_of(found) if found >= 0 else None for found in evaluation.held_in(file, quotes).tolist()]

    assert places == [(5, 12), (1, 5), None]
    assert evaluation.kept_shares() == (1.0, 1.0)


def test_a_short_text_that_very_many_rows_quote_is_a_phrase(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, ["which of the following is true", "who painted the old mill"])
    rows = [f"{number}: which of the following is true?" for number in range(26)]
    rows += [f"{number}: who painted the old mill?" for number in range(25)]

    quotes = QuoteFinder(evaluation.quotable()).find([normalise(row) for row in rows])

    with closing(PassageFile(tmp_path / "passages.bin")) as file:
        file.add(passages_of(rows), np.ones(len(rows), dtype=np.bool_))
        held = evaluation.held_in(file, quotes)
    assert (quotes >= 0).all()
    assert (held >= 0).tolist() == [False] * 26 + [True] * 25
    assert passage_at(rows[-1], *place_of(int(held[-1]))) == "who painted the old mill"


def test_more_short_texts_than_may_be_kept_are_told(tmp_path: Path) -> None:
    texts = [f"what is question number {number}" for number in range(3000)]

    evaluation = evaluation_of(tmp_path, texts, DuplicateLimits(max_passages=1000))

    _, quotes = evaluation.kept_shares()
    assert quotes < 1
    assert len(evaluation.quotable().hashes) <= 8 * 1000


def test_no_row_makes_the_search_quadratic(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path, [" ".join(["a"] * size) for size in range(5, 12)])
    finder = QuoteFinder(evaluation.quotable())

    def seconds(size: int) -> float:
        text = ("a " * size).strip()
        start = time.process_time()
        finder.find([text])
        return time.process_time() - start

    for _ in range(3):
        first, second = (min(seconds(size) for _ in range(2)) for size in (10_000, 40_000))
        if second < 0.01 or second < 9 * first:
            return
    pytest.fail(f"{first:.4f} s for 10,000 words, {second:.4f} s for 40,000")
