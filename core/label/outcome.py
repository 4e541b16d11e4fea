"""How the question of one row stands, read from the ledger alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from core.contract import Contract
from core.label.ask import UNASKED, Problem, completion_of, second_request
from core.label.entries import Entry
from core.label.ledger import Ledger
from core.label.request import Reply, Request


class Outcome(Contract):
    """A completion, a problem, or (with `missing`) a request without an answer; tokens of all its replies.

    `confidence` is the geometric mean of the answer's token probabilities, None where the teacher told none.
    """

    completion: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    problem: Problem | None = None
    missing: Request | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    confidence: float | None = None
    answered_by: str | None = None


def follow(first: Request, ledger: Ledger) -> Outcome:
    """Read how a question stands, through its second request where there was one."""
    replies: list[Reply] = []
    request = first
    while True:
        entry = ledger.find(request.key)
        if entry is None or entry.reply is None:
            return _outcome(replies, problem=_unanswered(entry), missing=request)
        reply = _of_offered(first, entry.reply)
        replies.append(reply)
        found = completion_of(reply, first.answer_schema)
        if isinstance(found, str):
            return _outcome(replies, completion=found, answered_by=request.key)
        second = second_request(first, reply, found) if request is first else None
        if second is None:
            return _outcome(replies, problem=found, answered_by=request.key)
        request = second


def _of_offered(first: Request, reply: Reply) -> Reply:
    """Return a reply without calls of tools that nobody offered: they are no answer, and no JSON of the row's schema."""
    return reply if first.tools or not reply.tool_calls else reply.model_copy(update={"tool_calls": ()})


def _unanswered(entry: Entry | None) -> Problem:
    if entry is None:
        return Problem(code=UNASKED, reason="too many before it got no answer")
    return Problem(code=entry.code or "teacher-error", reason=entry.error or "it was never answered")


def _outcome(
    replies: Sequence[Reply],
    completion: str | None = None,
    problem: Problem | None = None,
    missing: Request | None = None,
    answered_by: str | None = None,
) -> Outcome:
    answered = completion is not None
    return Outcome(
        completion=completion,
        tool_calls=replies[-1].tool_calls if answered else (),
        problem=problem,
        missing=missing,
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        confidence=confidence_of(replies[-1]) if answered else None,
        answered_by=answered_by,
    )


def confidence_of(reply: Reply) -> float | None:
    """Return the geometric mean of the probabilities of an answer's tokens, None without log-probabilities."""
    if not reply.logprobs:
        return None
    mean = sum(token.logprob for token in reply.logprobs) / len(reply.logprobs)
    return math.exp(min(0.0, mean))
