"""What a student's Hugging Face folder says of its tokenizer, and where a GGUF file made of it says something else. Pure."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

from core.contract import Contract
from core.errors import DataError
from core.export.inspect import GgufFacts

_SHARDS = "model.safetensors.index.json"
_SHOWN = 3


class SourceFacts(Contract):
    """A tokenizer as transformers loads it: `tokenizer_model` and `special_tokens` by GGUF's names.

    `merges` is None where GGUF needs none (sentencepiece), `marked` are all special tokens by id, `chat_template` is a hash.
    """

    tokenizer_model: str | None
    merges: int | None
    marked: dict[int, str]
    special_tokens: dict[str, int]
    chat_template: str | None


def tokenizer_model(tokenizer: dict[str, object]) -> tuple[str | None, int | None]:
    """Return what GGUF calls the tokenizer of a tokenizer.json, and its merges; None where this module knows no name for it.

    A BPE that falls back to bytes is sentencepiece's, unless it splits text before (Gemma 4): nothing is said of that one.
    """
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE":
        return None, None
    merges = len(model.get("merges") or ())
    return ("llama", None) if model.get("byte_fallback") else ("gpt2", merges)


def as_llama_reads(tokenizer: dict[str, object], text: str) -> str:
    """Return a text in the normal form that a tokenizer.json brings it to first (Qwen's: NFC).

    llama.cpp keeps text as it comes, so that only what is in that form already gets the trained ids from it.
    """
    normalizer = tokenizer.get("normalizer")
    composes = isinstance(normalizer, dict) and normalizer.get("type") == "NFC"
    return unicodedata.normalize("NFC", text) if composes else text


def source_problems(facts: GgufFacts, source: SourceFacts) -> list[str]:
    """Return where the F32 file is no true copy of its source, each with the likely cause."""
    return [
        *_kind_problems(facts, source),
        *_special_problems(facts, source),
        *_template_problems(facts, source),
    ]


def _kind_problems(facts: GgufFacts, source: SourceFacts) -> list[str]:
    if source.tokenizer_model == "gpt2" and facts.tokenizer_model == "llama":
        return [
            (
                "its tokenizer is llama, the source's gpt2: a stale tokenizer.model lies in the student's folder, or its "
                "tokenizer.json was changed to look like sentencepiece"
            )
        ]
    if source.merges is not None and facts.tokenizer_model == "gpt2" and facts.merges != source.merges:
        return [
            f"its tokenizer has {facts.merges or 0} merges, the source's {source.merges}: the tokenizer was saved wrongly"
        ]
    return []


def _special_problems(facts: GgufFacts, source: SourceFacts) -> list[str]:
    plain = sorted(number for number in source.marked if number not in facts.marked_tokens)
    named = ", ".join(f"{source.marked[number]} ({number})" for number in plain[:_SHOWN])
    problems = [f"{len(plain)} special tokens would be read as text, first {named}: their types were lost"] if plain else []
    for role, number in source.special_tokens.items():
        mine = facts.special_tokens.get(f"tokenizer.ggml.{role}_token_id")
        if mine is not None and mine != str(number):
            problems.append(f"its {role} token is {mine}, the source's {number}: config.json and the tokenizer disagree")
    return problems


def _template_problems(facts: GgufFacts, source: SourceFacts) -> list[str]:
    if source.chat_template is None or facts.chat_template == source.chat_template or not facts.has_chat_template:
        return []
    return ["its chat template is not the source's: another chat_template.jinja lies in the student's folder"]


def require_shards(folder: Path) -> None:
    """Raise DataError when a file that a student's index of shards names is not there."""
    index = folder / _SHARDS
    if not index.is_file():
        return
    named = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(named)} shards are missing, first {missing[0]}",
            remedy=f"Fetch the student again: {_SHARDS} names every file it needs.",
        )
