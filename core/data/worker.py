"""Tokenises chats by the student's template and counts tokens: transformers without torch; the client is tokens.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from core.data.assistant_turns import Tally, Turn, chats_up_to_turns, is_earlier_turn, learned
from core.data.record import AssistantTurns, LabeledRow, TokenisedRow, read_labeled
from core.data.token_rules import Chat, ChatTokens
from core.data.tokens import TokeniseRequest, TokeniseResult
from core.errors import DataError
from core.events import OnEvent, Progress
from core.files import write_json_lines

_BATCH = 256
_REASON_CHARS = 160
_TOGETHER = 32  # chats rendered in one call, which costs as much as to render one
_REFUSALS = (TemplateError, TypeError, ValueError)


def work(request: TokeniseRequest, folder: Path, on_event: OnEvent) -> TokeniseResult:
    """Tokenise a file of labelled rows into a file of tokenised rows, in the same order."""
    tokenizer = AutoTokenizer.from_pretrained(request.tokenizer_folder)
    rows = list(read_labeled(Path(request.rows)))
    tokenised = tokenise(tokenizer, rows, request.max_length, on_event, request.assistant_turns)
    count = write_json_lines(folder / request.output, (row.model_dump(mode="json") for row in tokenised))
    return TokeniseResult(rows=count)


def tokenise(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[LabeledRow],
    max_length: int,
    on_event: OnEvent,
    assistant_turns: AssistantTurns = "last",
) -> Iterator[TokenisedRow]:
    """Yield rows as the student sees them; DataError for a template that cannot be trained with."""
    tally = Tally(max_length)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        for turns in _turns(tokenizer, batch, assistant_turns, tally):
            made = learned(turns, max_length)
            if not made:
                raise _nothing_left(turns, max_length)
            tally.add(turns, made)
            yield from made
        done = min(start + _BATCH, len(rows))
        on_event(Progress(stage=None, task="tokenise", done=done, total=len(rows), unit="rows"))
    for note in tally.notes():
        on_event(note)


class TokenCounter:
    """Counts the tokens of chats by a student's template, without torch."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder))
        self._special = special_ids(self._tokenizer)
        self._bos = self._tokenizer.bos_token_id

    def count(self, chats: Sequence[Chat]) -> list[ChatTokens]:
        """Return the tokens of each chat."""
        rendered = self._all_rendered(chats)
        texts = [whole for whole, _ in rendered]
        # the template writes the special tokens itself
        encoded = self._tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return [self._counted(code, *texts) for code, texts in zip(encoded, rendered, strict=True)]

    def _all_rendered(self, chats: Sequence[Chat]) -> list[tuple[str, str]]:
        plain = (chat for chat in chats if not chat.tools)
        together = (
            text for some in iter(lambda: list(islice(plain, _TOGETHER)), []) for text in self._rendered_together(some)
        )
        return [self._rendered(chat) if chat.tools else next(together) for chat in chats]

    def _rendered_together(self, chats: Sequence[Chat]) -> list[tuple[str, str]]:
        """Return what `_rendered` does of chats without tools, in two calls; one by one where the template refuses any."""
        try:
            prompts = self._texts([_asked(chat) for chat in chats], add_generation_prompt=True)
            wholes = iter(self._texts([chat.messages for chat in chats if chat.answered]))
        except _REFUSALS:
            return [self._rendered(chat) for chat in chats]
        return [(next(wholes) if chat.answered else prompt, prompt) for chat, prompt in zip(chats, prompts, strict=True)]

    def _rendered(self, chat: Chat) -> tuple[str, str]:
        """Return the whole chat and the part before the answer; no text and the reason where the template refuses."""
        try:
            (prompt,) = self._texts([_asked(chat)], chat.tools, add_generation_prompt=True)
            return (self._texts([chat.messages], chat.tools)[0] if chat.answered else prompt), prompt
        except _REFUSALS as error:
            return "", _reason(error)

    def _texts(
        self,
        chats: list[list[dict[str, Any]]],
        tools: list[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> list[str]:
        if not chats:
            return []
        texts: list[str] = self._tokenizer.apply_chat_template(
            chats, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return texts

    def _counted(self, code: Any, whole: str, prompt: str) -> ChatTokens:
        if not whole:
            return ChatTokens(refused=prompt)
        if not whole.startswith(prompt):
            return ChatTokens(refused="its prompt is not a prefix of the whole chat")
        ids: list[int] = code.ids
        start = _first_token_from(code, len(prompt), len(whole))
        return ChatTokens(
            total=len(ids),
            prompt=start,
            ends=not self._special.isdisjoint(ids[start:]),
            bos_twice=self._bos is not None and ids[:2] == [self._bos] * 2,
        )


def _asked(chat: Chat) -> list[dict[str, Any]]:
    return chat.messages[:-1] if chat.answered else chat.messages


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_REASON_CHARS] or type(error).__name__


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of all special tokens; those that end a turn in Phi-3 and Gemma 3 have no role of their own."""
    marked = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset((*tokenizer.all_special_ids, *marked))


def _first_token_from(code: Any, place: int, end: int) -> int:
    """Return the number of the first token that covers a character from a place on, of all tokens where there is none."""
    for char in range(place, end):
        if (token := code.char_to_token(char)) is not None:
            return int(token)
    return len(code.ids)


def render(tokenizer: PreTrainedTokenizerBase, row: LabeledRow, *, answered: bool) -> str:
    """Return a row's chat as text, whole or up to where the answer begins."""
    messages: list[dict[str, Any]] = [message.for_template() for message in row.messages]
    shown = messages if answered else messages[:-1]
    tools = list(row.tools) or None
    try:
        return str(tokenizer.apply_chat_template(shown, tools=tools, tokenize=False, add_generation_prompt=not answered))
    except _REFUSALS as error:
        raise DataError(
            f"row {row.row_id}: the student's chat template refuses it: {_reason(error)}",
            remedy=_or_last(
                row, "Take a student with a chat template (an instruct model) that knows the row's roles and tools."
            ),
        ) from error


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    # the template writes the special tokens itself, so none are added here (a second BOS harms silently)
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


def _turns(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[LabeledRow], assistant_turns: AssistantTurns, tally: Tally
) -> Iterator[list[Turn]]:
    """Yield each row's assistant turns that are learned; an earlier one of which the template shows nothing is not."""
    chats = [chats_up_to_turns(row, assistant_turns) for row in rows]
    flat = [chat for some in chats for chat in some]
    whole = _ids(tokenizer, [render(tokenizer, chat, answered=True) for chat in flat])
    prompts = _ids(tokenizer, [render(tokenizer, chat, answered=False) for chat in flat])
    rendered = zip(flat, whole, prompts, strict=True)
    special = special_ids(tokenizer)
    for some in chats:
        turns = []
        for chat, ids, prompt in islice(rendered, len(some)):
            if chat is not some[-1] and _shows_nothing(tokenizer, chat, ids[len(prompt) :]):
                tally.unseen.append(chat.row_id)
            else:
                turns.append(_turn(special, chat, ids, prompt))
        yield turns


def _shows_nothing(tokenizer: PreTrainedTokenizerBase, row: LabeledRow, answer: list[int]) -> bool:
    """Tell whether a turn that only calls tools is but its end of turn, which would be learned as an answer."""
    return not row.messages[-1].content.strip() and not str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


def _turn(special: frozenset[int], row: LabeledRow, ids: list[int], prompt: list[int]) -> Turn:
    if ids[: len(prompt)] != prompt:
        raise DataError(
            f"row {row.row_id}: the chat template's prompt is not a prefix of the whole chat (model card, chat_template)",
            remedy=_or_last(row, "Use a template that renders earlier turns the same with and without the answer."),
        )
    return Turn(row.row_id, ids, start=len(prompt), end=_end_of_turn(special, row, ids, len(prompt)))


def _or_last(row: LabeledRow, remedy: str) -> str:
    return f"{remedy} Or learn no earlier turns: train.assistant_turns=last." if is_earlier_turn(row) else remedy


def _nothing_left(turns: Sequence[Turn], max_length: int) -> DataError:
    start = min(turn.start for turn in turns)
    return DataError(
        f"row {turns[-1].row_id}: the prompt has {start} tokens >= train.max_length {max_length}, no answer is left",
        remedy="Raise train.max_length, or lower data.rules.max_prompt_chars so that such rows are set aside.",
    )


def _end_of_turn(special: frozenset[int], row: LabeledRow, ids: list[int], start: int) -> int:
    """Return the position after the last special token of the answer: what follows it, a line break, is not learned."""
    for position in range(len(ids) - 1, start, -1):
        if ids[position] in special:
            return position + 1
    raise DataError(
        f"row {row.row_id}: the chat template ends the answer with no special token, so the student would not learn to stop",
        remedy=_or_last(row, "Use a template that ends a turn with a special token such as the tokenizer's eos_token."),
    )
