"""Merges an adapter into its base and measures the result; the work is done by core/export/worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.contract import Contract
from core.data.record import TokenisedRow
from core.events import OnEvent, ignore
from core.export.chat_format import ChatFormat
from core.worker_process import call

# what tokenizers stumble over: white space, digits, case, accents, other scripts, emoji, combining marks, code
HARD_TEXTS = (
    "  two  spaces\tand a tab\n\nand two lines  ",
    "0 12 345 6789 3.14159 1e-9 0xFF",
    "don't can't I'LL We've NAÏVE Straße",
    "日本語 русский العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200bzero\u00a0width",
    "def f(x: int) -> str:\n    return f'{x!r}' # {[()]}\r\n",
)


class MergeRequest(Contract):
    """The base and adapter folders, the folder to write, and what to measure; `rows` are the held-out ones."""

    base: str
    adapter: str
    target: str
    rows: tuple[TokenisedRow, ...]
    texts: tuple[str, ...]


class ReferenceText(Contract):
    """A text and the ids the student's own tokenizer gives it, without added special tokens."""

    text: str
    ids: tuple[int, ...]


class GreedyAnswer(Contract):
    """A greedy answer: the prompt's ids, the answer's, and how far the best logit lay above the next at each of its tokens."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    margins: tuple[float, ...]


class MergeResult(Contract):
    """The merged model's held-out loss (nats per completion token, weights as saved), its type, and its tokenizer's word.

    `dtype` is of the weights as saved, `measured_in` of the computation.
    """

    held_out_loss: float
    measured_in: str = "float32"
    dtype: str
    parameters: int
    has_chat_template: bool
    texts: tuple[ReferenceText, ...]
    greedy: tuple[GreedyAnswer, ...] = ()
    chat: ChatFormat | None = None


def merge(request: MergeRequest, scratch: Path, on_event: OnEvent = ignore, *, timeout_s: float) -> MergeResult:
    """Write the merged model as a Hugging Face folder and return what it does on the held-out rows.

    The merge is computed in fp32 and saved in the base's own type. DataError when the adapter is another base's.
    """
    return call("core.export.worker", request, MergeResult, scratch, on_event, timeout_s=timeout_s)


def reference_texts(contents: Sequence[str]) -> tuple[str, ...]:
    """Return the texts both tokenizers are compared on: the given ones, each once, and the hard ones."""
    return tuple(dict.fromkeys((*contents, *HARD_TEXTS)))
