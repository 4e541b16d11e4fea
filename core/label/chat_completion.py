"""The body of an endpoint's chat completion read into a Reply. A server may send anything: what cannot be read is a Trouble."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.data.flaws import Flaw
from core.data.parsing import parse_value
from core.data.turns import read_calls
from core.label.request import Reply, TokenLogprob
from core.label.teachers import Trouble

_SHOWN_CHARS = 120
_MOST_TOKENS = 1 << 31  # a count above is no count
_ROUNDING = 1e-3  # of a probability above one: what lies further above is a logit
_CUT = frozenset({"length", "max_tokens", "model_length"})
_REFUSED = frozenset({"content_filter", "refusal", "safety", "recitation"})
_BROKEN_OFF = frozenset({"error", "abort", "aborted", "cancelled"})  # what stands there is not the whole answer


class _Said(BaseModel):
    """A part of the body; other fields are left alone."""

    model_config = ConfigDict(strict=True)


class _Part(_Said):
    type: str
    text: str = ""


class _Message(_Said):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[Any] | None = None


class _Likely(_Said):
    token: str
    logprob: float = Field(le=_ROUNDING)
    id: Any = None


class _Token(_Likely):
    top_logprobs: list[_Likely] | None = None


class _Logprobs(_Said):
    content: list[_Token] | None = None


class _Choice(_Said):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Body(_Said):
    choices: list[_Choice]
    usage: Any = None


def read_completion(body: bytes, latency_ms: float) -> Reply | Trouble:
    """Return the first choice of a completion; the finish reason as OpenAI spells it, whoever answers."""
    try:
        value = parse_value(body.decode())
        if isinstance(value, Flaw):
            return _unreadable(body, value.reason)
        told = _Body.model_validate(value)
        if not told.choices:
            return _unreadable(body, "it has no choice")
        return _reply(told, body, latency_ms)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        return _unreadable(body, f"{where}: {first['msg']}")
    except UnicodeDecodeError as error:
        return _unreadable(body, f"no UTF-8 at byte {error.start}")


def _reply(told: _Body, body: bytes, latency_ms: float) -> Reply | Trouble:
    choice, usage = told.choices[0], told.usage if isinstance(told.usage, dict) else {}
    calls = read_calls(choice.message.tool_calls, "tool_calls") if choice.message.tool_calls else ()
    if isinstance(calls, Flaw):
        return _unreadable(body, calls.reason)
    finish = _finish(choice)
    if finish in _BROKEN_OFF:
        return _unreadable(body, f"finish_reason is {finish}")
    return Reply(
        text=choice.message.refusal or _text(choice.message.content),
        finish_reason=finish,
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        latency_ms=latency_ms,
        tool_calls=calls,
        logprobs=tuple(_logprobs(choice)),
    )


def _finish(choice: _Choice) -> str:
    if choice.message.refusal:
        return "content_filter"
    said = (choice.finish_reason or "unknown").lower()
    return "length" if said in _CUT else "content_filter" if said in _REFUSED else said


def _text(content: str | list[_Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content if part.type == "text")
    return content or ""


def _count(told: object) -> int:
    """Return a number of tokens, 0 where the endpoint tells none."""
    return told if isinstance(told, int) and 0 <= told < _MOST_TOKENS else 0


def _logprobs(choice: _Choice) -> list[TokenLogprob]:
    """Read what an endpoint tells of its tokens; ids where it gives them as a field of its own (llama-server does)."""
    return [
        TokenLogprob(
            token=_id(token),
            text=token.token,
            logprob=token.logprob,
            top=tuple((_id(other), other.token, other.logprob) for other in token.top_logprobs or ()),
        )
        for token in (choice.logprobs and choice.logprobs.content) or ()
    ]


def _id(token: _Likely) -> int | None:
    return token.id if isinstance(token.id, int) and 0 <= token.id < _MOST_TOKENS else None


def _unreadable(body: bytes, why: str) -> Trouble:
    """Return what becomes of an answer that is none; its beginning often says what it is."""
    start = " ".join(body[: 4 * _SHOWN_CHARS].decode(errors="replace").split())[:_SHOWN_CHARS]
    return Trouble(reason=f"the endpoint's answer is no chat completion: {why}; it begins: {start}", retryable=True)
