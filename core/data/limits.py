"""The numbers the data gate's rules, its coverage check, its quality score and its privacy pass go by. No rule is here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.section import Section

PersonalKind = Literal["secret", "email", "iban", "card", "national-id", "phone", "ip", "address", "name"]


class RuleLimits(Section):
    """The thresholds of the rules that look at one row's texts."""

    max_prompt_chars: int = Field(default=8000, ge=1, description="Longest prompt with hint and context, in characters")
    max_answer_chars: int = Field(default=32_000, ge=1, description="Longest answer, in characters")
    languages: tuple[str, ...] = Field(default=(), description="ISO 639-1 codes texts may be in; none checks nothing")
    language_min_chars: int = Field(default=40, ge=10, description="Shorter texts are not judged by language")
    language_chunk_chars: int = Field(default=80, ge=20, description="Sentences are judged in pieces of at least this")
    language_min_confidence: float = Field(default=0.6, ge=0, le=1, description="Pieces below this count as unsure")
    max_foreign_share: float = Field(default=0.25, ge=0, le=1, description="Characters in other languages, of those sure")
    max_word_run: int = Field(default=4, ge=1, description="One word said so many times in a row")
    max_sentence_repeats: int = Field(default=1, ge=1, description="Times one sentence may stand in a text")
    max_char_share: float = Field(default=0.4, gt=0, le=1, description="Share of the commonest character")
    repetition_min_chars: int = Field(default=20, ge=2, description="Shorter texts and sentences repeat as they like")
    ngram_min_words: int = Field(default=50, ge=10, description="Shorter texts are not judged by n-grams")
    max_top_2gram: float = Field(default=0.20, gt=0, le=1, description="Characters in the commonest two words (Gopher)")
    max_top_3gram: float = Field(default=0.18, gt=0, le=1, description="Characters in the commonest three words (Gopher)")
    max_top_4gram: float = Field(default=0.16, gt=0, le=1, description="Characters in the commonest four words (Gopher)")
    max_duplicate_5gram: float = Field(default=0.15, gt=0, le=1, description="Characters in repeated five words (Gopher)")
    truncation_min_words: int = Field(default=8, ge=2, description="Shorter texts may end as they like")
    refusal_chars: int = Field(default=200, ge=20, description="A refusal begins within the answer's first characters")
    copied_min_chars: int = Field(default=20, ge=1, description="Shorter answers may stand in their prompt")
    ratio_min_chars: int = Field(default=1000, ge=1, description="The longer side's length from which ratios are judged")
    max_prompt_to_answer: float = Field(default=20.0, gt=0, description="Characters of prompt for one of the answer")
    max_answer_to_prompt: float = Field(default=50.0, gt=0, description="Characters of answer for one of the prompt")
    min_answer_chars: int = Field(default=1, ge=1, description="Letters and digits an answer has at least")
    missing_text_chars: int = Field(default=3, ge=1, description="What follows `the text below:` to count as that text")


class CoverageLimits(Section):
    """What the labels of a whole corpus must look like."""

    fields: tuple[str, ...] = Field(
        default=("tags", "registre", "register", "dialect", "dialect_tag_list", "language", "label", "category"),
        description="Fields whose values are counted",
    )
    balanced: tuple[str, ...] = Field(
        default=("registre", "register", "dialect", "dialect_tag_list", "label", "category"),
        description="Fields no value of which may dominate",
    )
    max_share: float = Field(default=0.6, gt=0, le=1, description="Share of labelled rows one value may have")
    min_rows: int = Field(default=20, ge=1, description="Fewer labelled rows are not judged")
    min_share: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="field: value: share of all rows that must have it"
    )
    max_unlabelled: float = Field(default=0.5, ge=0, le=1, description="Share of rows without a field others have")
    max_values: int = Field(default=10_000, ge=2, description="A field with more values is free text and not judged")


class QualityWeights(Section):
    """How much each component of the quality score weighs; the score is their weighted mean."""

    length: float = Field(default=1.0, ge=0, description="Is there enough to learn from")
    variety: float = Field(default=1.0, ge=0, description="Different words among all words")
    language: float = Field(default=1.0, ge=0, description="In the configured language")
    ratio: float = Field(default=0.5, ge=0, description="Answer and prompt of comparable length")
    encoding: float = Field(default=1.0, ge=0, description="No mojibake, no control characters")
    ending: float = Field(default=0.5, ge=0, description="Not cut off")
    warnings: float = Field(default=2.0, ge=0, description="How few rules warn")
    consistency: float = Field(default=1.0, ge=0, description="How far a teacher's samples agree")
    confidence: float = Field(default=1.0, ge=0, description="How sure the teacher was of its tokens")
    full_words: int = Field(default=8, ge=1, description="Words from which on a text is long enough")


class PrivacyLimits(Section):
    """What the privacy pass looks for."""

    kinds: tuple[PersonalKind, ...] = Field(
        default=("secret", "email", "iban", "card", "national-id", "phone", "ip", "address"),
        description="What is redacted; `name` needs a package that finds names (entry-point group edgekiln.name_finders)",
    )
    regions: tuple[str, ...] = Field(default=("CA", "FR", "GB"), description="Where a phone number may lack +NN")
    redact: bool = Field(default=False, description="Replace personal data and secrets by placeholders")
    max_values: int = Field(default=200, ge=1, description="A row with more personal values is set aside")


class DuplicateLimits(Section):
    """When two rows count as alike."""

    threshold: float = Field(default=0.75, ge=0.5, le=1, description="Estimated Jaccard similarity of near duplicates")
    passage_words: int = Field(default=12, ge=4, le=100, description="Words in a row that two texts share to overlap")
    min_shared: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of passages that rows on two sides of the split have in common to be told",
    )
    template_rows: int = Field(
        default=25,
        ge=2,
        description="What more rows say is a template: such a passage gives no held-out row away, quotes no short evaluation text",
    )
    quoted_words: int = Field(
        default=5, ge=3, le=100, description="Words from which on a whole text of an evaluation file counts as quoted"
    )
    max_passages: int = Field(default=20_000_000, ge=1000, description="Passages looked for at most, 10 bytes each")
