"""Which of a prompt's samples the student learns, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from core.data.schemas import parse_json
from core.data.shingles import SHINGLE_CHARS, normalise
from core.files import canonical_json


@dataclass(frozen=True)
class Chosen:
    """The place of the chosen sample, and its mean similarity to the others in [0, 1], None when it stands alone."""

    place: int
    consistency: float | None


def choose(texts: Sequence[str], how: Literal["first", "agreement"] | int, *, as_json: bool) -> Chosen:
    """Choose among valid answers: the one at a place, the first, or the one most like all others (the medoid).

    Texts are compared by the Jaccard similarity of their character 5-grams, JSON by the same where it is not equal as a
    value. ValueError without an answer.
    """
    if not texts:
        raise ValueError("no answer to choose from")
    likeness = [_mean_similarity(texts, place, as_json=as_json) for place in range(len(texts))]
    if isinstance(how, int):
        place = how
    else:
        place = max(range(len(texts)), key=lambda place: (likeness[place] or 0.0, -place)) if how == "agreement" else 0
    return Chosen(place, likeness[place])


def _mean_similarity(texts: Sequence[str], place: int, *, as_json: bool) -> float | None:
    others = [similarity(texts[place], text, as_json=as_json) for other, text in enumerate(texts) if other != place]
    return sum(others) / len(others) if others else None


def similarity(one: str, other: str, *, as_json: bool) -> float:
    """Return how alike two answers are, in [0, 1]; 1 when they say the same."""
    left, right = (_grams(_canonical(text) if as_json else normalise(text)) for text in (one, other))
    return len(left & right) / len(left | right)


def _canonical(text: str) -> str:
    value, why = parse_json(text)
    return normalise(text) if why else canonical_json(value).decode()


def _grams(text: str) -> set[str]:
    padded = text.ljust(SHINGLE_CHARS)
    return {padded[start : start + SHINGLE_CHARS] for start in range(len(padded) - SHINGLE_CHARS + 1)}
