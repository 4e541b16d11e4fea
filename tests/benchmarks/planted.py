"""What the data stage must say about each kind of fault that is planted in the corpus, and how much of it was found."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from core.files import read_json_lines

ERRORS = {
    "json-broken": "json-broken",
    "not-utf8": "not-utf8",
    "json-duplicate-key": "json-duplicate-key",
    "json-surrogate": "json-surrogate",
    "json-too-deep": "json-too-deep",
    "json-not-finite": "json-not-finite",
    "json-not-object": "json-not-object",
    "shape-unknown": "shape-unknown",
    "null-text": "field-wrong-type",
    "role-unknown": "role-unknown",
    "system-not-first": "system-not-first",
    "same-role-twice": "role-repeated",
    "last-not-assistant": "answer-missing",
    "empty-user": "empty-content",
    "empty-completion": "empty-content",
    "too-long": "too-long",
    "tool-arguments": "tool-call-misfits",
    "schema-missing": "schema-missing",
    "schema-invalid": "schema-invalid",
    "answer-not-json": "answer-not-json",
    "answer-not-that-json": "answer-misfits-schema",
    "exact-duplicate": "duplicate",
}
WARNINGS = {
    "mojibake": "mojibake",
    "control-characters": "control-characters",
    "special-token": "chat-markup",
    "wrong-language": "language",
    "mixed-language": "language",
    "truncated": "truncated",
    "refusal": "refusal",
    "boilerplate": "boilerplate",
    "missing-url": "missing-url",
    "missing-image": "missing-image",
    "repetition": "repetition",
    "answer-in-prompt": "answer-in-prompt",
    "length-ratio": "ratio-outlier",
    "contamination": "contamination",
}
# the share of near duplicates to be found, by the share of words edited; unrelated rows are as alike as those edited most
NEAR_DUPLICATES = {0.005: 0.99, 0.01: 0.99, 0.02: 0.99, 0.05: 0.97, 0.1: 0.75}
LOOKALIKES = 0.1  # at most, of rows with four words in ten edited
PERSONAL = {
    "pii-email": "email",
    "pii-phone": "phone",
    "pii-ip": "ip",
    "pii-card": "card",
    "pii-iban": "iban",
    "pii-national-id": "national-id",
    "secret-key": "secret",
}
PERSONAL_VALUES = (
    "marie.tremblay@example.org",
    "555 0199",
    "203.0.113.77",
    "4111 1111",
    "3M02 606",
    "130 692 544",
    "Q4ZT7LMN2PXW8RVK",
)
_REPEATED = {"contamination", "wrong-language"}
TOKEN_ERRORS = {"no-trainable-token": "no-trainable-token"}


def found_at(path: Path) -> dict[int, set[str]]:
    """Return the codes that a file of rejects or warnings has for each line."""
    found: dict[int, set[str]] = {}
    for record in read_json_lines(path):
        found.setdefault(int(record["where"].rpartition(":")[2]), set()).add(record["code"])
    return found


def planted_at(truth: Path) -> dict[str, list[int]]:
    """Return the lines of each kind that was planted."""
    planted: dict[str, list[int]] = {}
    with truth.open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            planted.setdefault(record["kind"], []).append(record["line"])
    return planted


def alike_shares(dataset: Path, truth: Path, kind: str) -> dict[float, float]:
    """Return by edit rate the share of copies of a kind where the copy or its original is told to repeat another row."""
    told = [found_at(dataset / name) for name in ("rejects.jsonl", "warnings.jsonl")]
    repeats = {line for found in told for line, codes in found.items() if codes & {"near-duplicate", "duplicate"}}
    hits: dict[float, list[bool]] = {}
    for record in read_json_lines(truth):
        if record["kind"] == kind:
            hits.setdefault(record["edit_rate"], []).append(bool({record["line"], record["of"]} & repeats))
    return {rate: sum(found) / len(found) for rate, found in sorted(hits.items())}


def found_shares(dataset: Path, truth: Path, kinds: Iterable[str]) -> dict[str, float]:
    """Return for each kind the share of its lines at which the right code stands."""
    planted = planted_at(truth)
    codes = {**ERRORS, **WARNINGS, **TOKEN_ERRORS}
    rejects, warnings = found_at(dataset / "rejects.jsonl"), found_at(dataset / "warnings.jsonl")
    shares = {}
    for kind in kinds:
        lines = planted.get(kind, [])
        # made from few texts, so two such rows may be the same
        right = {codes[kind], "duplicate"} if kind in _REPEATED else {codes[kind]}
        hits = sum(bool(right & (rejects.get(line, set()) | warnings.get(line, set()))) for line in lines)
        shares[kind] = hits / len(lines) if lines else 1.0
    return shares
