"""Normal form, shingles and runs of words: what is the same, the same numbers everywhere, bounded work."""

from __future__ import annotations

import time
import unicodedata
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.shingles import MAX_CHARS, Runs, chunks, normalise, shingles, word_runs, words_of

GOLDEN_SHINGLES = ["b237b900a88ba12f", "14cad2aed563c3c1", "8b2598cf223f244f"]
GOLDEN_WORDS = ["f39dbd647bc96201", "8eec56ec64ed835d", "378466db5281162e"]
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), max_size=12)


def of(runs: Runs, place: int) -> set[int]:
    return set(runs.hashes[int(runs.offsets[place]) : int(runs.offsets[place + 1])].tolist())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Quelle  heure\nest-il?", "quelle heure est‑il?"),
        ("L’été à Montréal", unicodedata.normalize("NFD", "L'été à montréal")),
        ("« Bonjour »", '" bonjour "'),
        ("co\u00adopé\u200bration", "coopération"),
        ("STRASSE", "straße"),
        ("a\u00a0b\u2009c\0d", "a b c d"),
    ],
)
def test_what_a_reader_calls_the_same_has_one_normal_form(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("3+4", "3-4"), ("x²", "x2"), ("a/b", "a*b"), ("été", "ete")])
def test_what_means_something_else_keeps_another_form(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@settings(deadline=None)
@given(st.text())
def test_the_normal_form_of_a_normal_form_is_itself(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


def test_the_normal_form_of_an_odd_character_is_its_own() -> None:
    # alone and between an invisible character and an accent, where dropping the one may join the others
    codes = chain(range(0x3100), range(0xF900, 0x10000), range(0x1D100, 0x1D200))
    texts = [chr(code) + tail for code in codes for tail in ("", "\u200b\u0301b")]

    assert not [text for text in texts if normalise(normalise(text)) != normalise(text)]


@settings(deadline=None)
@given(TEXTS, st.integers(1, 7))
def test_shingles_are_equal_exactly_where_runs_of_characters_are(texts: list[str], chars: int) -> None:
    normal = [normalise(text) for text in texts]
    runs = shingles(normal, chars)
    whole: dict[str, int] = {}
    for place, text in enumerate(normal):
        filled = text.ljust(chars)
        pieces = [filled[start : start + chars] for start in range(len(filled) - chars + 1)]
        hashes = runs.hashes[int(runs.offsets[place]) : int(runs.offsets[place + 1])].tolist()
        assert len(hashes) == len(pieces)
        whole.update(zip(pieces, hashes, strict=True))
        assert [whole[piece] for piece in pieces] == hashes
    assert len(set(whole.values())) == len(whole)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 4))
def test_runs_of_words_are_equal_exactly_where_words_are(texts: list[str], size: int) -> None:
    normal = [normalise(text) for text in texts]
    runs = word_runs(normal, size)
    seen: dict[tuple[str, ...], int] = {}
    for place, text in enumerate(normal):
        words = words_of(text)
        pieces = [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]
        pieces = pieces or ([tuple(words)] if words else [])
        hashes = runs.hashes[int(runs.offsets[place]) : int(runs.offsets[place + 1])].tolist()
        assert len(hashes) == len(pieces)
        for piece, hashed in zip(pieces, hashes, strict=True):
            assert seen.setdefault(piece, hashed) == hashed
    assert len(set(seen.values())) == len(seen)


def test_words_are_letters_digits_and_marks() -> None:
    assert words_of(normalise("C'est 3,5 km: cafe\u0301-crème, नमस्ते!")) == [
        "c",
        "est",
        "3",
        "5",
        "km",
        "café",
        "crème",
        "नमस्ते",
    ]


def test_the_hashes_are_those_of_every_machine() -> None:
    runs = shingles(["le chat dort", "été"])

    assert runs.offsets.tolist() == [0, 8, 9]
    assert [f"{value:016x}" for value in runs.hashes[[0, 7, 8]].tolist()] == GOLDEN_SHINGLES
    assert [f"{value:016x}" for value in word_runs(["le chat dort", "été"], 2).hashes.tolist()] == GOLDEN_WORDS


def test_a_batch_gives_what_its_texts_give_alone() -> None:
    texts = [normalise(f"question {n} " * (n % 7)) for n in range(40)]
    together = shingles(texts)

    assert all(of(together, n) == of(shingles([text]), 0) for n, text in enumerate(texts))
    assert np.concatenate([shingles(chunk).hashes for chunk in chunks(texts)]).tolist() == together.hashes.tolist()


def test_only_the_beginning_of_an_endless_text_is_cut_into_shingles() -> None:
    text = "ab" * MAX_CHARS

    assert len(shingles([text]).hashes) == MAX_CHARS - 4
    assert [len(chunk) for chunk in chunks([text, "a", text, "b", "c"])] == [2, 3]
    assert not list(chunks([]))


def test_hostile_text_takes_time_in_proportion_to_its_length() -> None:
    def seconds(count: int) -> float:
        baits = [bait * count for bait in ("a", " ", "’", "\u0301", "- ", "ﬁ", "\u200b")]
        best = 1e9
        for _ in range(3):
            began = time.process_time()
            for bait in baits:
                shingles([normalise(bait)])
                word_runs([normalise(bait)], 12)
            best = min(best, time.process_time() - began)
        return best

    seconds(1000)
    assert seconds(80_000) < 24 * seconds(10_000)  # linear would be 8, quadratic 64
