"""The phrases and words the rules look for, read from configs/phrases and compiled to automata that run in linear time."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import yaml

from core.contract import Contract
from core.data.linear import Pattern, compiled, literal

PhraseKind = Literal["refusal", "boilerplate", "missing_text", "missing_image"]


class PhraseList(Contract):
    """One language's file of configs/phrases."""

    language: str
    refusal: tuple[str, ...]
    boilerplate: tuple[str, ...]
    missing_text: tuple[str, ...]
    missing_image: tuple[str, ...]
    open_words: tuple[str, ...]


@cache
def phrase_lists() -> tuple[PhraseList, ...]:
    """Return the shipped lists, one a language, ordered by file name."""
    folder = Path(str(resources.files("configs"))) / "phrases"
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))]
    return tuple(PhraseList.model_validate(yaml.safe_load(text)) for text in texts)


def find_phrase(kind: PhraseKind, text: str) -> tuple[int, int] | None:
    """Return where the first phrase of that kind stands in a text, as positions of characters; None when there is none."""
    found = _automaton(kind).search(text)
    return found.span(1) if found else None


def holds_phrase(text: str) -> bool:
    """Say whether a text may hold a phrase of any kind; most hold none, and to ask once is cheaper than for each kind."""
    return _of_any_kind().search(text) is not None


@cache
def open_words() -> frozenset[str]:
    """Return the words with which no sentence ends, in lower case."""
    return frozenset(word for known in phrase_lists() for word in known.open_words)


@cache
def _automaton(kind: PhraseKind) -> Pattern:
    return compiled(rf"(?i)(?:^|[^\pL\pN])({_alternatives(kind)})(?:$|[^\pL\pN])")


@cache
def _of_any_kind() -> Pattern:
    alternatives = "|".join(_alternatives(kind) for kind in get_args(PhraseKind))
    return compiled(rf"(?i)(?:^|[^\pL\pN])(?:{alternatives})")


def _alternatives(kind: PhraseKind) -> str:
    phrases: Iterable[str] = (phrase for known in phrase_lists() for phrase in getattr(known, kind))
    return "|".join(_pattern(phrase) for phrase in sorted(phrases, key=len, reverse=True))


def _pattern(phrase: str) -> str:
    return r"\s+".join("['’]".join(literal(part) for part in word.split("'")) for word in phrase.split())
