"""What is asked of a teacher and what it answers, as all teachers and the ledger understand it."""

from __future__ import annotations

from operator import not_
from typing import Any

from pydantic import Field

from core.contract import Contract
from core.data.record import Message
from core.files import digest_of


class TokenLogprob(Contract):
    """A token of an answer with its natural log-probability, and the likeliest ones in its place, as (id, text, logprob).

    Ids are None where the endpoint does not tell them.
    """

    token: int | None
    text: str
    logprob: float
    top: tuple[tuple[int | None, str, float], ...]


class Request(Contract):
    """Everything that shapes an answer; `teacher` is the identity that fixes the model's bytes.

    `sample` numbers the answers to one prompt from 0; with `top_logprobs` the reply has so many a token; `extra_body`
    holds the endpoint's own fields. Fields that came later are not written where they say nothing, so that answers asked
    for before keep their keys.
    """

    teacher: str
    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    seed: int
    answer_schema: dict[str, Any] | None = None
    sample: int = Field(default=0, exclude_if=not_)
    top_logprobs: int = Field(default=0, exclude_if=not_)
    extra_body: dict[str, Any] = Field(default={}, exclude_if=not_)
    tools: tuple[dict[str, Any], ...] = Field(default=(), exclude_if=not_)

    @property
    def key(self) -> str:
        """The sha256 the ledger knows this request by."""
        return digest_of(self.model_dump(mode="json"))


class Reply(Contract):
    """A teacher's raw answer; `finish_reason` and `tool_calls` as OpenAI's endpoint spells them."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    latency_ms: float
    tool_calls: tuple[dict[str, Any], ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
