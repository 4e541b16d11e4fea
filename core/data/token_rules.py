"""Rules about what is left of a row after the student's chat template and truncation. Tokens are counted in worker.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from core.contract import Contract, Severity
from core.data.flaws import REMEDIES, Flaw


class Student(Contract):
    """Whose tokenizer and template the rows must fit: its folder, `train.max_length`, and whether it sees no hint and context."""

    folder: str
    max_length: int
    context_distillation: bool


@dataclass(frozen=True)
class Chat:
    """A row as the student sees it: messages and tools as chat templates take them; the last is the answer if `answered`."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    answered: bool


@dataclass(frozen=True)
class ChatTokens:
    """What a chat is in tokens: all of it, what stands before the answer, and whether a special token ends the answer.

    `refused` is what the template said when it would not render the chat; then nothing else counts.
    """

    total: int = 0
    prompt: int = 0
    ends: bool = True
    bos_twice: bool = False
    refused: str = ""


class TokenCounter(Protocol):
    """Counts the tokens of chats."""

    def count(self, chats: Sequence[Chat]) -> list[ChatTokens]:
        """Return the tokens of each chat."""


def token_flaws(tokens: ChatTokens, chat: Chat, max_length: int) -> tuple[Flaw, ...]:
    """Return what is wrong with a chat in tokens; an error comes alone."""
    text = str(chat.messages[-1]["content"])
    if error := _error(tokens, chat, text, max_length):
        return (replace(error, remedy=REMEDIES[error.code]),)
    if tokens.total <= max_length:
        return ()
    reason = f"the chat has {tokens.total} tokens > train.max_length {max_length}, so the end of the answer is not learned"
    return (Flaw("answer-cut", "completion", text, reason, Severity.WARNING, REMEDIES["answer-cut"]),)


def _error(tokens: ChatTokens, chat: Chat, text: str, max_length: int) -> Flaw | None:
    field = "completion" if chat.answered else "user"
    if tokens.refused:
        return Flaw("template-refuses", "messages", text, f"the student's chat template: {tokens.refused}")
    if tokens.prompt >= max_length:
        reason = f"the prompt has {tokens.prompt} tokens >= train.max_length {max_length}, no token of an answer is left"
        return Flaw("no-trainable-token", field, text, reason)
    if tokens.bos_twice:
        return Flaw("bos-twice", "messages", text, "the chat begins with two beginning-of-sequence tokens")
    if chat.answered and not tokens.ends:
        return Flaw(
            "no-end-of-turn", field, text, "no special token ends the answer, so the student would not learn to stop"
        )
    return None
