"""Asks a GGUF file for its held-out loss, a sample answer and its tokenizer's ids, in a process of its own.

llama.cpp may end its process on a broken file (std::out_of_range on a tokenizer without merges): that is a refusal here.
"""

from __future__ import annotations

from pathlib import Path

from core.contract import Contract
from core.data.record import TokenisedRow
from core.errors import GateRefused, ProcessFailed
from core.events import OnEvent, ignore
from core.export.merge import GreedyAnswer, ReferenceText
from core.process import ended_by_signal
from core.toolchain import Toolchain
from core.worker_process import call


class TrialRequest(Contract):
    """A GGUF file, with an adapter's file where there is one, the libraries that run it, and what it is asked.

    `corpus` is a file of ReferenceText.
    """

    gguf: str
    adapter: str | None = None
    toolchain: Toolchain
    rows: tuple[TokenisedRow, ...]
    texts: tuple[ReferenceText, ...]
    corpus: str | None = None
    greedy: tuple[GreedyAnswer, ...] = ()
    answer_tokens: int


class Trial(Contract):
    """What a file did; the loss is in nats per completion token, None when it is not a finite number.

    `splits` has, for each greedy answer the file would go on otherwise, the reference's margin at that token.
    """

    held_out_loss: float | None
    sample: str
    texts: int
    tokenizer_mismatches: int
    first_mismatch: str | None
    splits: tuple[float, ...] = ()


def run_trial(request: TrialRequest, scratch: Path, on_event: OnEvent = ignore, *, timeout_s: float) -> Trial:
    """Load the file through llama.cpp and return what it did; GateRefused when it cannot be loaded or run."""
    try:
        return call("core.export.gguf_loss.worker", request, Trial, scratch, on_event, timeout_s=timeout_s)
    except ProcessFailed as error:
        # only a signal is the file's doing; a worker that ends with a status is a fault of ours and stays one
        if not ended_by_signal(error):
            raise
        raise GateRefused(
            f"{Path(request.gguf).name}: llama.cpp's process {error.problem.partition(' ')[2]}",
            remedy=f"The file is broken (often a tokenizer saved without its merges); read {scratch / 'worker.log'}.",
        ) from error
