"""Labelled rows as token ids after the student's chat template. The work is done by core/data/worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.contract import Contract
from core.data.record import AssistantTurns, LabeledRow, TokenisedRow
from core.events import OnEvent, ignore
from core.files import read_json_lines, write_json_lines
from core.worker_process import call

_TIMEOUT_S = 3600.0


class TokeniseRequest(Contract):
    """What the worker is asked; `output` is a file name in the worker's folder."""

    rows: str
    tokenizer_folder: str
    max_length: int
    assistant_turns: AssistantTurns
    output: str


class TokeniseResult(Contract):
    """How many rows were written."""

    rows: int


def tokenise(
    rows: Sequence[LabeledRow],
    tokenizer_folder: Path,
    max_length: int,
    scratch: Path,
    on_event: OnEvent = ignore,
    *,
    assistant_turns: AssistantTurns = "last",
) -> list[TokenisedRow]:
    """Return the rows as token ids in the same order, truncated to `max_length` tokens; `scratch` takes the worker's files.

    The mask is 1 on the assistant's answer and the token that ends its turn; with all `assistant_turns` on the earlier ones
    of a train row too, which then may become several rows (assistant_turns.py). A held-out row stays one, of its answer
    alone. DataError names a row with nothing to learn, or whose prompt is not a prefix of the whole chat.
    """
    source = scratch / "rows.jsonl"
    write_json_lines(source, (row.model_dump(mode="json") for row in rows))
    request = TokeniseRequest(
        rows=str(source),
        tokenizer_folder=str(tokenizer_folder),
        max_length=max_length,
        assistant_turns=assistant_turns,
        output="tokenised.jsonl",
    )
    call("core.data.tokenise_worker", request, TokeniseResult, scratch, on_event, timeout_s=_TIMEOUT_S)
    return [TokenisedRow.model_validate(record) for record in read_json_lines(scratch / request.output)]
