"""What the ledger's rows say: how a request stands, what requests took, how a labelling at work stands."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from core.contract import Contract
from core.label.request import Reply, TokenLogprob

COMPARISON = "compare-"  # begins what stands in the place of an artifact's id where models are judged, not prompts labelled

State = Literal["waiting", "answered", "failed"]


class Entry(Contract):
    """How a request stands: `sent` counts the sendings, `attempts` those that came to an end.

    `code` says what kind of failure `error` was; `session` is the labelling that sent it last.
    """

    state: State
    reply: Reply | None
    error: str | None
    code: str | None
    sent: int
    attempts: int
    session: int | None


class Spent(Contract):
    """What requests took; `cost` covers the answers that had a price, `priced` says how many they are."""

    requests: int = 0
    answered: int = 0
    failed: int = 0
    waiting: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    priced: int = 0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens."""
        return self.prompt_tokens + self.completion_tokens


class SessionRow(Contract):
    """One labelling at work: of so many questions so many had their answer before, and so many got one (or a refusal) since.

    `ended` is None while it runs, or when it was killed; `seen_at` is when it last said something.
    """

    session: int
    artifact_id: str
    teacher: str
    started_at: datetime
    seen_at: datetime
    ended: str | None
    questions: int
    reused: int
    done: int


def entry_of(row: tuple[Any, ...]) -> Entry:
    """Read state, error, code, sent, attempts, session and the reply's columns."""
    state, error, code, sent, attempts, session, *reply = row
    return Entry(state=state, reply=reply_of(reply), error=error, code=code, sent=sent, attempts=attempts, session=session)


def reply_of(row: Sequence[Any]) -> Reply | None:
    """Read answer, finish reason, both token counts, latency, tool calls and log-probabilities; None without an answer."""
    answer, finish_reason, prompt_tokens, completion_tokens, latency_ms, calls, logprobs = row
    if answer is None:
        return None
    return Reply(
        text=answer,
        finish_reason=finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        latency_ms=latency_ms,
        tool_calls=json.loads(calls) if calls else (),
        logprobs=_unpacked(logprobs),
    )


def packed(logprobs: Sequence[TokenLogprob]) -> bytes | None:
    """Return log-probabilities as the ledger keeps them, None for none."""
    plain = [(token.token, token.text, token.logprob, token.top) for token in logprobs]
    return zlib.compress(json.dumps(plain, ensure_ascii=False).encode()) if plain else None


def _unpacked(packed: bytes | None) -> tuple[TokenLogprob, ...]:
    plain = json.loads(zlib.decompress(packed)) if packed else []
    return tuple(TokenLogprob(token=token, text=text, logprob=logprob, top=top) for token, text, logprob, top in plain)
