"""How much a text repeats itself: words in a row, sentences, characters, n-grams. Thresholds: Gopher's and prior art's.

Gopher (Rae et al. 2021, table A1) judges web pages; its n-gram limits hold here for texts of 50 words and more, its minimum
length for none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from operator import eq

from core.data.limits import RuleLimits

_FREQUENT = (b"eas", b"tinrou", b"lmdcp")  # most of the letters of French and English
_FREQUENT_OR_SPACE = b" " + b"".join(_FREQUENT)
_SENTENCE_ENDS = re.compile(r"[.!?…\n]")  # one character at a time, so linear


def repetition_of(text: str, limits: RuleLimits) -> tuple[str, str] | None:
    """Return what a text repeats and in which measure it is too much, None when it does not."""
    if len(text) < limits.repetition_min_chars:
        return None
    folded, words = folded_words(text)
    return (
        _word_run(words, limits.max_word_run)
        or _sentences(folded, limits)
        or _character(folded, limits.max_char_share)
        or (_ngrams(words, limits) if len(words) >= limits.ngram_min_words else None)
    )


@lru_cache(maxsize=4)  # the rule and the quality score ask for the same answer, one after the other
def folded_words(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a text and its words in the case in which they are compared."""
    folded = text.casefold()
    return folded, tuple(folded.split())


def _word_run(words: Sequence[str], most: int) -> tuple[str, str] | None:
    if not any(map(eq, words, islice(words, 1, None))):
        return None
    run, before = 1, ""
    for word in words:
        run = run + 1 if word == before else 1
        if run > most and word[0].isalpha():
            return word, f"one word stands {run} times in a row > data.rules.max_word_run {most}"
        before = word
    return None


def _sentences(folded: str, limits: RuleLimits) -> tuple[str, str] | None:
    least, most = limits.repetition_min_chars, limits.max_sentence_repeats
    sentences = [sentence for part in _SENTENCE_ENDS.split(folded) if len(sentence := part.strip()) >= least]
    if len(set(sentences)) == len(sentences):
        return None
    sentence, count = Counter(sentences).most_common(1)[0]
    if count <= most:
        return None
    return sentence, f"one sentence stands {count} times > data.rules.max_sentence_repeats {most}"


def _character(folded: str, most: float) -> tuple[str, str] | None:
    if _surely_mixed(folded, most * len(folded)):
        return None
    counts = Counter(folded)
    counts[" "] = counts["\n"] = 0
    character, count = counts.most_common(1)[0]
    share = count / len(folded)
    if share <= most:
        return None
    return character * 8, f"one character makes {share:.0%} of the text > data.rules.max_char_share {most:.0%}"


def _surely_mixed(folded: str, most: float) -> bool:
    """Say whether groups of characters, each of which counts no more, cover the text, so that none of them alone does."""
    encoded = folded.encode(
        "utf-8", "surrogatepass"
    )  # others than ASCII count twice and more, which only makes it less sure
    groups = (len(encoded) - len(encoded.translate(None, group)) for group in _FREQUENT)
    return max(groups) <= most and len(encoded.translate(None, _FREQUENT_OR_SPACE)) <= most


def _ngrams(words: Sequence[str], limits: RuleLimits) -> tuple[str, str] | None:
    total = sum(map(len, words))
    counts = Counter(words)
    heaviest = sorted([count * len(word) for word, count in counts.items() if count > 1], reverse=True)
    again = bytes([counts[word] > 1 for word in words])
    for size, most in ((2, limits.max_top_2gram), (3, limits.max_top_3gram), (4, limits.max_top_4gram)):
        # no n-gram can hold more than its words do, nor stand twice where one of them does not
        if sum(heaviest[:size]) <= most * total or b"\1" * size not in again:
            continue
        gram, count = Counter(_grams(words, size)).most_common(1)[0]
        share = count * sum(map(len, gram)) / total
        if count > 1 and share > most:
            return " ".join(gram), f"the commonest {size} words make {share:.0%} > data.rules.max_top_{size}gram {most:.0%}"
    return _duplicate_5grams(words, total, limits.max_duplicate_5gram) if b"\1" * 5 in again else None


def _grams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return list(zip(*(words[start:] for start in range(size)), strict=False))


def _duplicate_5grams(words: Sequence[str], total: int, most: float) -> tuple[str, str] | None:
    grams = _grams(words, 5)
    if len(set(grams)) == len(grams):
        return None
    seen: set[tuple[str, ...]] = set()
    repeated, last, example = 0, 0, ""
    for start, gram in enumerate(grams):
        if gram in seen:
            repeated += sum(map(len, words[max(start, last) : start + 5]))
            last, example = start + 5, example or " ".join(gram)
        seen.add(gram)
    if repeated <= most * total:
        return None
    return example, f"repeated five words make {repeated / total:.0%} > data.rules.max_duplicate_5gram {most:.0%}"
