"""The teacher's stored log-probabilities as the training uses them: how sure it was of each answer, its tokens beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from core.data.record import TokenisedRow
from core.errors import BadConfig, DataError
from core.nouns import LabeledDataset
from core.train.section import TrainConfig

FILE = "logprobs.parquet"
_MIN_MATCHED = 0.9  # of the answers' tokens: a teacher seldom writes a text in other tokens than its tokenizer would
_LOST = "�"  # what stands for the bytes of a character that a single token does not end
_BATCH_ROWS = 256
_REMEDY = "Take a student with the teacher's tokenizer (of its family), or set train.distillation=null."

Decode = Callable[[int], str]


@dataclass(frozen=True)
class Answer:
    """A teacher's answer: its tokens with their log-probabilities, and the likeliest ones in each place; ids may be unknown."""

    row_id: str
    tokens: list[int | None]
    texts: list[str]
    logprobs: list[float]
    top_tokens: list[list[int | None]]
    top_texts: list[list[str]]
    top_logprobs: list[list[float]]


@dataclass(frozen=True)
class Guidance:
    """The teacher's likeliest tokens for a row from the token at `start` on; a list for each token, none where it says nothing."""

    start: int
    tokens: list[list[int]]
    logprobs: list[list[float]]


@dataclass(frozen=True)
class Guided:
    """The rows that have a teacher's word, by id, and how many of the teacher's tokens stand beside the same one of ours."""

    rows: dict[str, Guidance]
    matched: int
    tokens: int


def require_logprobs(labeled: LabeledDataset, config: TrainConfig) -> None:
    """Raise BadConfig where a training reads log-probabilities that the labels do not have."""
    if not config.needs_logprobs or any(ref.path == FILE for ref in labeled.files):
        return
    key = "train.distillation is set" if config.distillation else f"train.order is {config.order}"
    raise BadConfig(
        f"{key} and label {labeled.artifact_id} keeps no log-probabilities (label.top_logprobs="
        f"{labeled.config.get('top_logprobs', 0)})",
        remedy="Set label.top_logprobs=20, with a teacher that tells them; or train without.",
    )


def answers(path: Path) -> Iterator[Answer]:
    """Yield the answers of a `logprobs.parquet` (core.label.logprobs_file)."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                yield Answer(
                    row["row_id"],
                    row["token"],
                    row["text"],
                    row["logprob"],
                    row["top_token"],
                    row["top_text"],
                    row["top_logprob"],
                )


def losses(path: Path) -> dict[str, float]:
    """Return the mean negative log-probability of each answer's tokens for its teacher, in nats, by row."""
    return {one.row_id: -sum(one.logprobs) / len(one.logprobs) for one in answers(path) if one.logprobs}


def by_teacher_loss(rows: Sequence[TokenisedRow], path: Path) -> tuple[list[TokenisedRow], int]:
    """Return rows in the order of their teacher's loss, those it was surest of first, and how many it never answered.

    Those come last, in their order. A chat's earlier turns go with its answer. DataError when it answered none of them.
    """
    known = losses(path)
    unknown = [row for row in rows if _chat(row) not in known]
    if len(unknown) == len(rows):
        raise _nothing(path, len(rows), "train.order=shuffled")
    ordered = sorted((row for row in rows if _chat(row) in known), key=lambda row: known[_chat(row)])
    return [*ordered, *unknown], len(unknown)


def _chat(row: TokenisedRow) -> str:
    return row.turn_of or row.row_id


def guidance(rows: Sequence[TokenisedRow], path: Path, vocabulary: int, decode: Decode) -> Guided:
    """Lay the teacher's tokens beside the student's, where they are the same; earlier turns are not the teacher's.

    `decode` gives the text of one of the student's `vocabulary` tokens. DataError names the first token that is another one
    for the student, or the first answer whose tokens are others when too many are.
    """
    ours = {row.row_id: row for row in rows if row.answer_start < len(row.input_ids)}
    reader = _Reader(vocabulary, decode)
    found: dict[str, Guidance] = {}
    matched = tokens = 0
    first: str | None = None
    for answer in answers(path):
        if (row := ours.get(answer.row_id)) is None:
            continue
        laid = reader.beside(row, answer)
        found[row.row_id] = laid.guidance
        matched += laid.matched
        tokens += laid.compared
        first = first or laid.difference
    if not found:
        raise _nothing(path, len(rows), "train.distillation=null")
    if matched < _MIN_MATCHED * tokens:
        raise DataError(
            f"{matched} of {tokens} tokens of the teacher's answers are the student's tokens, < {_MIN_MATCHED:.0%}: {first}",
            remedy=_REMEDY,
        )
    return Guided(found, matched, tokens)


def _nothing(path: Path, rows: int, instead: str) -> DataError:
    return DataError(
        f"{path.name} holds no answer of the {rows} training rows",
        remedy=f"Label the rows with label.top_logprobs=20, or set {instead}.",
    )


@dataclass(frozen=True)
class _Laid:
    guidance: Guidance
    matched: int
    compared: int
    difference: str | None


class _Reader:
    """Reads the teacher's tokens as the student's: by id where it tells ids, by their text where it does not."""

    def __init__(self, vocabulary: int, decode: Decode) -> None:
        self._vocabulary = vocabulary
        self._decode = decode
        self._same: dict[tuple[int, str], None] = {}
        self._by_text: dict[str, int] | None = None

    def beside(self, row: TokenisedRow, answer: Answer) -> _Laid:
        start = row.answer_start
        ours = row.input_ids[start:]
        count = min(len(ours), len(answer.tokens))
        theirs = [self._id(answer.tokens[place], answer.texts[place]) for place in range(count)]
        # after the first other token the teacher's words are about another beginning than the student's
        same = next((place for place in range(count) if theirs[place] not in (ours[place], None)), count)
        difference = None
        if same < count:
            difference = (
                f"token {same + 1} of row {row.row_id} is {theirs[same]} {answer.texts[same]!r} for the teacher and "
                f"{ours[same]} {self._decode(ours[same])!r} for the student"
            )
        tops = [self._top(answer, place) for place in range(same)]
        laid = Guidance(
            start, [[token for token, _ in top] for top in tops], [[chance for _, chance in top] for top in tops]
        )
        return _Laid(laid, same, count, difference)

    def _top(self, answer: Answer, place: int) -> list[tuple[int, float]]:
        """Return the likeliest tokens in a place; one whose text is no token of ours falls to the rest."""
        told = zip(answer.top_tokens[place], answer.top_texts[place], answer.top_logprobs[place], strict=True)
        known = ((self._id(token, text), chance) for token, text, chance in told)
        return [(token, chance) for token, chance in known if token is not None]

    def _id(self, token: int | None, text: str) -> int | None:
        if token is None:
            return self._of_text(text)
        if (token, text) not in self._same:
            self._check(token, text)
            self._same[token, text] = None
        return token

    def _check(self, token: int, text: str) -> None:
        mine = self._decode(token) if token < self._vocabulary else None
        if mine is None:
            raise DataError(
                f"the teacher's token {token} {text!r} is not in the student's vocabulary of {self._vocabulary}",
                remedy=_REMEDY,
            )
        # a special token's text is told or not, and a SentencePiece token's first space by some decoders only
        if text and _LOST not in text + mine and text.strip(" ") != mine.strip(" "):
            raise DataError(
                f"token {token} is {text!r} for the teacher and {mine!r} for the student: their tokenizers differ",
                remedy=_REMEDY,
            )

    def _of_text(self, text: str) -> int | None:
        if self._by_text is None:
            self._by_text = {}
            for token in range(self._vocabulary):
                self._by_text.setdefault(self._decode(token), token)
        return None if not text or _LOST in text else self._by_text.get(text)
