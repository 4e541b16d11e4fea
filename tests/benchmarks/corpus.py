"""A seeded corpus of short chats with planted defects, and what was planted where: `python -m tests.benchmarks.corpus FOLDER`.

Row n is a function of the seed and n alone, so a planted duplicate is made by writing its original again, and any number
of rows is written in the same memory. Beside `corpus.jsonl` lie `truth.jsonl` (one object a planted row: line, kind, for
a copy its original's line) and `evaluation.jsonl` (the file that rows of kind contamination were taken from).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tests.benchmarks import corpus_faults
from tests.benchmarks.corpus_words import (
    EN_QUESTIONS,
    EN_SENTENCES,
    FR_QUESTIONS,
    FR_SENTENCES,
    RARE_TAG,
    SYSTEM,
    TAGS,
    Pattern,
)

EVALUATION_ROWS = 200
_EVALUATION_SEED = 1 << 20
_TOOL_SHARE = 0.02
_RARE_TAG_SHARE = 0.0005
SHARES = {
    "exact-duplicate": 0.02,
    "near-duplicate": 0.03,
    "lookalike": 0.01,
    "shared-passage": 0.0025,
    "contamination": 0.0025,
    **dict.fromkeys(corpus_faults.FAULTS, 0.0025),
    "too-long": 0.0005,
}
EDIT_RATES = (0.005, 0.01, 0.02, 0.05, 0.1)
LOOKALIKE_RATE = 0.4


@dataclass(frozen=True)
class Corpus:
    """What was written; `ascii_share` is the share of bytes below 128, `ascii_rows_share` of rows with no other."""

    path: Path
    truth: Path
    evaluation: Path
    rows: int
    size_bytes: int
    ascii_share: float
    ascii_rows_share: float
    planted: dict[str, int]


def clean_row(seed: int, number: int, *, calls: bool = True) -> dict[str, Any]:
    """Return row `number` as it is before anything is planted: a chat of about 560 characters, French or English.

    Without `calls` the answer is a text also in those rows where it is a tool call.
    """
    rng = Random(seed << 32 | number)
    language = "fr" if rng.random() < 0.5 else "en"
    questions, sentences = (FR_QUESTIONS, FR_SENTENCES) if language == "fr" else (EN_QUESTIONS, EN_SENTENCES)
    user = f"{_say(rng, sentences)} {_say(rng, sentences)} {_say(rng, questions)}"
    answer = " ".join(_say(rng, sentences) for _ in range(4 + int(rng.random() * 3)))
    tag = RARE_TAG if rng.random() < _RARE_TAG_SHARE else _pick(rng, TAGS)
    row: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": _pick(rng, SYSTEM[language])},
            {"role": "user", "content": user},
            {"role": "assistant", "content": answer},
        ],
        "tags": [tag],
        "language": language,
    }
    return corpus_faults.as_tool_call(row) if rng.random() < _TOOL_SHARE and calls else row


def _say(rng: Random, patterns: tuple[Pattern, ...]) -> str:
    pattern = patterns[int(rng.random() * len(patterns))]
    return "".join(part if isinstance(part, str) else part[int(rng.random() * len(part))] for part in pattern)


def _pick(rng: Random, words: tuple[str, ...]) -> str:
    return words[int(rng.random() * len(words))]


def kind_of(seed: int, number: int) -> str | None:
    """Return what is planted in a row, None for a clean one."""
    place = Random(seed << 32 | number | 1 << 63).random()
    for kind, share in SHARES.items():
        place -= share
        if place < 0:
            return kind
    return None


def planted_row(seed: int, number: int) -> tuple[dict[str, Any] | bytes, dict[str, Any] | None]:
    """Return a row, as an object or as the bytes of its line, and what is planted in it."""
    kind = kind_of(seed, number)
    if kind is None or number == 0:
        return clean_row(seed, number), None
    rng = Random(seed << 32 | number | 1 << 62)
    truth: dict[str, Any] = {"line": number + 1, "kind": kind}
    if kind in corpus_faults.FAULTS:
        clean = clean_row(seed, number, calls=kind not in corpus_faults.TEXT_FAULTS)
        return corpus_faults.FAULTS[kind](clean, rng), truth
    if kind == "contamination":
        source = int(rng.random() * EVALUATION_ROWS)
        row = clean_row(seed, number)
        row["messages"] = [row["messages"][0], *clean_row(_EVALUATION_SEED, source)["messages"][1:]]
        return row, {**truth, "of": source + 1}
    original = _original(seed, number, rng)
    return _copy(seed, number, original, rng, {**truth, "of": original + 1})


def _original(seed: int, number: int, rng: Random) -> int:
    found = int(rng.random() * number)
    while found > 0 and kind_of(seed, found) is not None:
        found -= 1
    return found


def _copy(
    seed: int, number: int, original: int, rng: Random, truth: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    row = clean_row(seed, original)
    if truth["kind"] == "exact-duplicate":
        return corpus_faults.respaced(row, rng), truth
    if truth["kind"] == "shared-passage":
        passage = row["messages"][-1]["content"]
        own = clean_row(seed, number)
        own["messages"][-1]["content"] += " " + ". ".join(passage.split(". ")[:3]).rstrip(".") + "."
        return own, truth
    rate = LOOKALIKE_RATE if truth["kind"] == "lookalike" else EDIT_RATES[int(rng.random() * len(EDIT_RATES))]
    return corpus_faults.edited(row, rate, rng), {**truth, "edit_rate": rate}


def lines(rows: int, seed: int) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
    """Yield each line with its line break, and what is planted in it."""
    for number in range(rows):
        row, truth = planted_row(seed, number)
        yield (row if isinstance(row, bytes) else corpus_faults.line_of(row)), truth


def write_corpus(folder: Path, rows: int = 500_000, seed: int = 0) -> Corpus:
    """Write corpus, truth and evaluation file into the folder, the same bytes for the same rows and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in ("corpus.jsonl", "truth.jsonl", "evaluation.jsonl")]
    size = ascii_bytes = ascii_rows = 0
    planted: dict[str, int] = {}
    with paths[0].open("wb") as out, paths[1].open("w", encoding="utf-8") as truths:
        for line, truth in lines(rows, seed):
            out.write(line)
            own = len(line) if line.isascii() else len(line.decode("utf-8", "ignore").encode("ascii", "ignore"))
            size, ascii_bytes, ascii_rows = size + len(line), ascii_bytes + own, ascii_rows + line.isascii()
            if truth:
                planted[truth["kind"]] = planted.get(truth["kind"], 0) + 1
                truths.write(json.dumps(truth) + "\n")
    with paths[2].open("wb") as out:
        out.writelines(corpus_faults.line_of(clean_row(_EVALUATION_SEED, number)) for number in range(EVALUATION_ROWS))
    return Corpus(*paths, rows, size, ascii_bytes / size, ascii_rows / rows, planted)


def main() -> None:
    """Write a corpus and say what it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    corpus = write_corpus(arguments.folder, arguments.rows, arguments.seed)
    sys.stdout.write(
        f"{corpus.rows} rows, {corpus.size_bytes / 1e6:.0f} MB, {corpus.ascii_share:.1%} of the bytes and "
        f"{corpus.ascii_rows_share:.1%} of the rows ASCII; planted: {json.dumps(corpus.planted)}\n"
    )


if __name__ == "__main__":
    main()
