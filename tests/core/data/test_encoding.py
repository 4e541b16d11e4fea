"""Mojibake and control characters: ftfy's own published cases, and that the fast way says what ftfy says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.encoding import control_character_in, is_suspect, mojibake_in

CASES = json.loads((Path(__file__).parents[2] / "data" / "ftfy_test_cases.json").read_text(encoding="utf-8"))
# Examples of text that is as it should be, by the words of their labels; the others are mojibake.
SOUND = ("Negative", "negative", "false positive", "Handle Afrikaans", "Handle Croatian")
# ftfy marks these as failures of its own: it does not see the mojibake (three), or sees some in a manga's title (one).
UNSEEN = ("codepage 437 mixup", "windows-1251 where we need", "MacRoman mojibake that looks like math")
MISTAKEN = ("the title of a manga",)

ODD = "".join(MOJIBAKE_CATEGORIES[name].replace("-", "") for name in ("bad", "law", "currency", "start_punctuation", "box"))
LETTERS = st.sampled_from("aZ .,?é àâçœŒ«»’“”–…\u00a0ÃÂÎÐØÙ√≈‚вГβā×²³°±¹½ß" + ODD)


def is_among(case: dict[str, str], labels: tuple[str, ...]) -> bool:
    return any(label in case["label"] for label in labels)


def is_sound(case: dict[str, str]) -> bool:
    return is_among(case, SOUND) and not is_among(case, ("Mostly negative", "Sort of negative"))


MOJIBAKE = [case for case in CASES if not is_sound(case) and not is_among(case, (*UNSEEN, "Sort of negative"))]
CLEAN = [case for case in CASES if is_sound(case) and not is_among(case, MISTAKEN)]


@pytest.mark.parametrize("case", MOJIBAKE, ids=lambda case: case["label"])
def test_what_ftfy_publishes_as_mojibake_is_detected(case: dict[str, str]) -> None:
    assert mojibake_in(case["original"]) is not None


@pytest.mark.parametrize("case", CLEAN, ids=lambda case: case["label"])
def test_what_ftfy_publishes_as_sound_is_left_alone(case: dict[str, str]) -> None:
    assert mojibake_in(case["original"]) is None


def test_only_what_ftfy_itself_calls_its_failures_is_missed() -> None:
    missed = [case for case in CASES if is_among(case, (*UNSEEN, *MISTAKEN))]

    assert len(MOJIBAKE) + len(CLEAN) + len(missed) == len(CASES) - 1  # one is mojibake that ftfy leaves on purpose
    assert {case["expect"] for case in missed} == {"fail"}
    assert len(MOJIBAKE) == 111


@settings(deadline=None)
@given(st.text(LETTERS, max_size=60), st.text("abcé’ \u00a0", max_size=20))
def test_the_fast_way_says_what_ftfy_says(odd: str, plain: str) -> None:
    for text in (odd, plain + odd, odd + plain, odd[:20] + plain * 3 + odd[20:]):
        assert is_suspect(text) == is_bad(text)


def test_french_with_all_its_accents_is_sound() -> None:
    text = "« L’œil » d’Ève, où Noël vit naître ça : Ô haïku, maïs, aiguë… À 20 °C, 3 € — « Même ŒUF ! » n° 5, 4½"

    assert mojibake_in(text) is None


def test_entities_over_mojibake_are_seen() -> None:
    assert mojibake_in("l&#8217;Ã©tÃ©") == "l’été"
    assert mojibake_in("l&#8217;été") is None


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x85", "\u202e", "\u2066", "\ufeff", "\ufffd"])
def test_a_control_character_is_found_where_it_stands(character: str) -> None:
    assert control_character_in(f"abc{character}") == 3


def test_what_keyboards_write_is_no_control_character() -> None:
    assert control_character_in("a\tb\r\nc\u00a0d\u200d🎉 ‑ é\u0301") is None
