"""Counts tokens and renders chat templates for everyone, in a process of its own; the client is tokens.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from core.data.record import LabeledRow, TokenisedRow, read_labeled
from core.data.tokens import TokeniseRequest, TokeniseResult
from core.errors import DataError
from core.events import OnEvent, Progress
from core.files import write_json_lines
from core.worker_process import main

_BATCH = 256


def work(request: TokeniseRequest, folder: Path, on_event: OnEvent) -> TokeniseResult:
    """Tokenise a file of labelled rows into a file of tokenised rows, in the same order."""
    tokenizer = AutoTokenizer.from_pretrained(request.tokenizer_folder)
    rows = list(read_labeled(Path(request.rows)))
    tokenised = tokenise(tokenizer, rows, request.max_length, on_event)
    count = write_json_lines(folder / request.output, (row.model_dump(mode="json") for row in tokenised))
    return TokeniseResult(rows=count)


def tokenise(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[LabeledRow], max_length: int, on_event: OnEvent
) -> Iterator[TokenisedRow]:
    """Yield rows as the student sees them; DataError for a template that cannot be trained with."""
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        whole = _ids(tokenizer, [_render(tokenizer, row, answered=True) for row in batch])
        prompts = _ids(tokenizer, [_render(tokenizer, row, answered=False) for row in batch])
        for row, ids, prompt in zip(batch, whole, prompts, strict=True):
            yield _row(tokenizer, row, ids, prompt, max_length)
        done = min(start + _BATCH, len(rows))
        on_event(Progress(stage=None, task="tokenise", done=done, total=len(rows), unit="rows"))


def _render(tokenizer: PreTrainedTokenizerBase, row: LabeledRow, *, answered: bool) -> str:
    messages: list[dict[str, Any]] = [message.for_template() for message in row.messages]
    shown = messages if answered else messages[:-1]
    tools = list(row.tools) or None
    return str(tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, add_generation_prompt=not answered))


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # the template writes the special tokens itself, so none are added here (a second BOS harms silently)
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


def _row(
    tokenizer: PreTrainedTokenizerBase, row: LabeledRow, ids: list[int], prompt: list[int], max_length: int
) -> TokenisedRow:
    if ids[: len(prompt)] != prompt:
        raise DataError(
            f"row {row.row_id}: the chat template's prompt is not a prefix of the whole chat (model card, chat_template)",
            remedy="Use a template that renders earlier turns the same with and without the answer.",
        )
    end = _end_of_turn(tokenizer, row, ids, len(prompt))
    kept = ids[: min(end, max_length)]
    if len(kept) <= len(prompt):
        raise DataError(
            f"row {row.row_id}: the prompt has {len(prompt)} tokens >= train.max_length {max_length}, no answer is left",
            remedy="Raise train.max_length, or lower data.rules.max_prompt_chars so that such rows are set aside.",
        )
    mask = [0] * len(prompt) + [1] * (len(kept) - len(prompt))
    return TokenisedRow(row_id=row.row_id, input_ids=tuple(kept), completion_mask=tuple(mask))


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, row: LabeledRow, ids: list[int], start: int) -> int:
    """Return the position after the last special token of the answer: what follows it, a line break, is not learned."""
    special = set(tokenizer.all_special_ids)
    for position in range(len(ids) - 1, start, -1):
        if ids[position] in special:
            return position + 1
    raise DataError(
        f"row {row.row_id}: the chat template ends the answer with no special token, so the student would not learn to stop",
        remedy="Use a template that ends a turn with a special token such as the tokenizer's eos_token.",
    )


if __name__ == "__main__":
    main(TokeniseRequest, work)
