"""Merges an adapter into its base and measures the result; the work is done by core/export/worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from core.config import TrainConfig
from core.contract import Contract
from core.data.record import TokenisedRow
from core.errors import BadConfig
from core.events import OnEvent, ignore
from core.export.chat_format import ChatFormat
from core.export.section import MergeChoice
from core.export.source import SourceFacts, require_shards
from core.nouns import Adapter, Merge
from core.worker_process import call

PLAIN = "export.merge is base"
Weights = Literal["base", "dequantised"]

# what tokenizers stumble over: white space, digits, case, accents, other scripts, emoji, combining marks, code
HARD_TEXTS = (
    "  two  spaces\tand a tab\n\nand two lines  ",
    "0 12 345 6789 3.14159 1e-9 0xFF",
    "don't can't I'LL We've NAÏVE Straße",
    "日本語 русский العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u200bzero\u00a0width",
    "def f(x: int) -> str:\n    return f'{x!r}' # {[()]}\r\n",
    *(chr(number) for number in range(128)),
    # with the ASCII characters above, every byte that UTF-8 has: C2 to DF and all that follow, then E0 to EF, then F0 to F4
    *("".join(map(chr, range(first, first + 64))) for first in range(0x80, 0x800, 64)),
    "".join(chr(number) for number in (0x800, *range(0x1000, 0x10000, 0x1000)) if not 0xD800 <= number < 0xE000),
    "".join(chr(number) for number in (0x10000, 0x40000, 0x80000, 0xC0000, 0x100000)),
)


class MergeRequest(Contract):
    """The base and adapter folders, the folder to write, and what to measure; `rows` are the held-out ones.

    The merge is tried `onto` each of the weights; `keep` stays, None is the one of the lowest held-out loss. `training` says
    how the 4-bit weights are made. `corpus` are files of labelled rows, all of which are tokenised.
    """

    base: str
    adapter: str
    target: str
    onto: tuple[Weights, ...] = Field(default=("base",), min_length=1)
    keep: Weights | None = None
    training: TrainConfig
    rows: tuple[TokenisedRow, ...]
    texts: tuple[str, ...]
    corpus: tuple[str, ...] = ()


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

    `dtype` is of the weights as saved, `measured_in` of the computation; `onto` are the weights that were kept; `corpus` is
    a file of ReferenceText. `unnormalised` texts of it are not in the normal form the tokenizer brings text to, which
    llama.cpp does not.
    """

    held_out_loss: float
    onto: Weights = "base"
    held_out_losses: dict[Weights, float] = {}
    measured_in: str = "float32"
    dtype: str
    parameters: int
    has_chat_template: bool
    texts: tuple[ReferenceText, ...]
    greedy: tuple[GreedyAnswer, ...] = ()
    chat: ChatFormat | None = None
    source: SourceFacts | None = None
    corpus: str | None = None
    unnormalised: int = 0


def merge(request: MergeRequest, scratch: Path, on_event: OnEvent = ignore, *, timeout_s: float) -> MergeResult:
    """Write the merged model as a Hugging Face folder and return what it does on the held-out rows.

    The merge is computed in fp32 and saved in the base's own type. DataError when the adapter is another base's, a shard of
    the base is missing, its tokenizer has more tokens than its embedding has rows, or the merged model's loss is no number.
    """
    require_shards(Path(request.base))
    return call("core.export.worker", request, MergeResult, scratch, on_event, timeout_s=timeout_s)


def reference_texts(contents: Sequence[str]) -> tuple[str, ...]:
    """Return the texts both tokenizers are compared on: the given ones, each once, and the hard ones."""
    return tuple(dict.fromkeys((*contents, *HARD_TEXTS)))


def choices(asked: MergeChoice, adapter: Adapter, *, with_base: bool = False) -> tuple[Weights, ...]:
    """Return the weights a merge is tried onto, the base's own `with_base` in any case.

    BadConfig for the 4-bit ones of an adapter that was trained without.
    """
    if not _is_four_bit(adapter):
        if asked == "dequantised":
            raise BadConfig(
                f"export.merge is dequantised, adapter {adapter.artifact_id} was trained with train.quantisation none: "
                "there are no 4-bit weights",
                remedy="Set export.merge=base, or train again with train.quantisation=nf4.",
            )
        return ("base",)
    return ("base", "dequantised") if asked == "auto" or (with_base and asked != "base") else (asked,)


def recorded(asked: MergeChoice, adapter: Adapter, result: MergeResult) -> Merge:
    """Return what was tried, what was kept and why."""
    return Merge(onto=result.onto, held_out_losses=dict(result.held_out_losses), reason=_reason(asked, adapter, result))


def _reason(asked: MergeChoice, adapter: Adapter, result: MergeResult) -> str:
    if asked != "auto":
        return f"export.merge is {asked}"
    if not _is_four_bit(adapter):
        return "there is one choice: the adapter was trained without 4-bit weights"
    losses = sorted(result.held_out_losses.values())
    gain = losses[-1] - losses[0]
    return f"its held-out loss is lower by {gain:.4f}" if gain else "the held-out losses are equal"


def _is_four_bit(adapter: Adapter) -> bool:
    return TrainConfig.model_validate(adapter.config).quantisation != "none"
