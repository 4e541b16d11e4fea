"""Languages of short texts: Québec French, English and others are named rightly, two languages in one text are seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.data import docs
from core.data.languages import language_of, languages_in, main_language
from core.data.limits import RuleLimits

DATA = Path(__file__).parents[2] / "data"
LIMITS = RuleLimits()
FRENCH = [
    "Pantoute! Chus pas d'accord avec toé là-dessus.",
    "Envoye donc, grouille-toi, on va être en retard au show.",
    "Le meeting est cancellé, le boss a eu un flat sur la 20.",
    "As-tu checké le deadline pour le rapport?",
    "Mets ta tuque, y fait frette en titi dehors.",
]
ENGLISH = [
    "Can you find me a cheap restaurant downtown for Saturday night?",
    "I heard someone say 'lâche pas la patate'. What does that mean?",
    "Do you know a quick way to park my car near Place Ville-Marie?",
    "Reserve a table for four at seven in Trois-Rivières.",
    "No, Quebec's national holiday is June 24, not July 14.",
]


def quebec_prompts() -> list[str]:
    names = ("quebecois_conversation.jsonl", "quebecois_distill.jsonl")
    records = [json.loads(line) for name in names for line in (DATA / name).read_text(encoding="utf-8").splitlines()]
    return [record[field] for record in records for field in ("user", "system_hint", "goal")]


def test_short_quebec_french_and_english_are_told_apart() -> None:
    english = [json.loads(line)["context"] for line in docs.generate(96).splitlines()]

    assert [text for text in [*quebec_prompts(), *FRENCH] if language_of(text)[0] != "fr"] == []
    assert [text for text in [*english, *ENGLISH] if language_of(text)[0] != "en"] == []


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("es", "Necesito reservar una mesa para cuatro personas el sábado."),
        ("de", "Ich brauche einen Tisch für vier Personen am Samstag."),
        ("it", "Ho bisogno di prenotare un tavolo per quattro persone sabato."),
        ("pt", "Preciso reservar uma mesa para quatro pessoas no sábado."),
        ("fr", "JE VEUX RÉSERVER UNE TABLE POUR QUATRE PERSONNES SAMEDI SOIR"),
    ],
)
def test_other_languages_and_capitals_are_named(code: str, text: str) -> None:
    assert language_of(text)[0] == code


def test_a_text_in_two_languages_is_counted_by_its_pieces() -> None:
    text = " ".join([*FRENCH, *ENGLISH])

    found = languages_in(text, LIMITS)

    assert set(found) == {"fr", "en"}
    assert 0.3 < found["en"] / found.total() < 0.7


def test_code_and_addresses_are_not_read_as_a_language() -> None:
    code = "```python\nfor item in items:\n    print(item.name, item.price, sep=', ', end='; ', flush=True)\n```"

    found = languages_in(f"{' '.join(FRENCH)}\n{code}\nhttps://example.com/this-is-an-english-page-about-eggs", LIMITS)

    assert set(found) == {"fr"}


def test_a_rows_language_is_that_of_most_of_its_text() -> None:
    assert main_language([ENGLISH[0], " ".join(FRENCH)], LIMITS) == "fr"
    assert main_language([ENGLISH[0]], LIMITS) == "en"
    assert main_language(["Oui.", ""], LIMITS) is None
    assert main_language([], LIMITS) is None


def test_with_the_rule_on_a_rows_language_is_that_of_most_characters_of_all_its_texts() -> None:
    texts = [f"{ENGLISH[0]} {FRENCH[0]}", " ".join([*ENGLISH[1:3], *FRENCH]), FRENCH[1]]
    assert main_language(texts, LIMITS.model_copy(update={"languages": ("fr", "en")})) == "fr"


def test_a_rows_language_is_read_after_code_and_addresses() -> None:
    code = "```python\nfor item in items:\n    print(item.name, item.price)\n```"
    assert main_language([f"{code} https://example.com/an-english-page {' '.join(FRENCH)}"], LIMITS) == "fr"
    assert main_language(["1 2 3 4 5 6 7 8 9 | 10 | 11 | 12 | 13 | 14 | 15 | 16 | 17 | 18"], LIMITS) is None
