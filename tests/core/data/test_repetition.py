"""Repetition in one text: each measure at its threshold, and the reason that names it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.limits import RuleLimits
from core.data.repetition import repetition_of

LIMITS = RuleLimits()
WORDS = [f"{first}{second}" for first in "abcdefgh" for second in ("rame", "lune", "pont", "vert", "doux", "clef", "noix")]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("non non non non et puis oui", None),
        ("non non non non non et puis oui", "max_word_run"),
        ("1 1 1 1 1 1 zéro virgule cinq", None),
        ("Ferme la porte derrière toi. Ouvre-la.", None),
        ("Ferme la porte derrière toi. Et ferme la porte derrière toi.", None),
        ("Ferme la porte derrière toi! Oui. FERME la porte derrière toi.", "max_sentence_repeats"),
        ("aaaaaaaaaaaaaaaabcdefghijklmnopqrstuvwxy", None),
        ("aaaaaaaaaaaaaaaaaaabcdefghijklmnopqrstuvwxyz", "max_char_share"),
        ("aaaaaaaaaaaaaaaaaaa", None),
        ("\n \n \n \n \n \n \n \n \n \n \n a", None),
        (" ".join(WORDS), None),
        (" ".join([*WORDS, *("chat noir est" for _ in range(4))]), None),
        (" ".join(f"{word} chat noir" for word in WORDS), "max_top_2gram"),
        (" ".join(f"{word * 4} un ou et" for word in WORDS), "max_top_3gram"),
        (" ".join(f"{word * 8} x ou y et" for word in WORDS), None),
        (" ".join(WORDS + WORDS[:20]), "max_duplicate_5gram"),
        (" ".join(WORDS + WORDS[:6]), None),
    ],
)
def test_a_text_repeats_itself_from_the_threshold_on(text: str, key: str | None) -> None:
    found = repetition_of(text, LIMITS)

    assert (found is None) if key is None else (found is not None and f"data.rules.{key} " in found[1])


@settings(deadline=None)
@given(st.text(" easzé\n", max_size=60), st.sampled_from("e zé"), st.integers(0, 60))
def test_the_commonest_character_is_found_whatever_else_stands_there(text: str, character: str, times: int) -> None:
    whole = f"{text}{character * times}"
    limits = RuleLimits(max_word_run=1000, max_sentence_repeats=1000, ngram_min_words=1000)
    share = max((whole.count(one) / len(whole) for one in set(whole) - set(" \n")), default=0.0)

    assert (repetition_of(whole, limits) is not None) == (len(whole) >= 20 and share > limits.max_char_share)


def test_short_texts_are_not_judged_by_n_grams() -> None:
    text = " ".join(f"{word} chat noir" for word in WORDS[:16])

    assert repetition_of(text, LIMITS) is None
    assert repetition_of(text, RuleLimits(ngram_min_words=10)) is not None


def test_four_words_that_come_back_are_found() -> None:
    text = " ".join(f"{word}{number} un petit chat noir" for number, word in enumerate(WORDS))

    found = repetition_of(text, RuleLimits(max_top_2gram=1, max_top_3gram=1))

    assert found is not None
    assert found[0] == "un petit chat noir"
