"""The phrase lists: each phrase is found in any case, spacing and apostrophe, and only as whole words."""

from __future__ import annotations

from typing import get_args

import pytest

from core.data.phrases import PhraseKind, find_phrase, holds_phrase, open_words, phrase_lists


@pytest.mark.parametrize("kind", get_args(PhraseKind))
def test_every_phrase_is_found_however_it_is_written(kind: PhraseKind) -> None:
    for phrase in (phrase for known in phrase_lists() for phrase in getattr(known, kind)):
        for text in (phrase, phrase.upper(), phrase.replace("'", "’"), phrase.replace(" ", "\n  ")):
            assert find_phrase(kind, f"Ah, {text}.") is not None, text
            assert holds_phrase(f"Ah, {text}."), text


def test_a_phrase_inside_of_a_word_is_not_found() -> None:
    assert find_phrase("boilerplate", "Bas an AI models") is None
    assert find_phrase("missing_image", "in this imagery") is None
    assert not holds_phrase("Bas an AI models")


def test_the_place_is_told_in_characters() -> None:
    text = "Éèà: en tant qu’IA, je ne mange pas."
    place = find_phrase("boilerplate", text)

    assert place is not None
    assert text[slice(*place)] == "en tant qu’IA"


def test_french_and_english_are_there() -> None:
    assert [known.language for known in phrase_lists()] == ["en", "fr"]
    assert {"the", "de", "parce"} <= open_words()
