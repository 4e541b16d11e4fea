"""The teacher behind an endpoint: any server that speaks OpenAI's chat completions, through the openai client."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from core.catalogue import EndpointModel, HubModel, ModelCard
from core.config import LabelConfig, secret
from core.errors import TeacherRefused, ToolMissing
from core.label.chat_completion import read_completion
from core.label.request import Reply, Request
from core.label.teachers import Trouble
from core.sinks import hide

if TYPE_CHECKING:
    from core.label.connections import Connections

_TOLD_CHARS = 300
_STUTTER = re.compile(r"(?<=^status \d{3}): Error code: \d{3}")  # the client's own words for the status
_NO_KEY = "none"  # local servers take any; the client wants some
_FILTERS = ("content_filter", "content policy", "content_policy", "moderation", "flagged")
_STRUCTURE = (
    "response_format"  # vLLM, llama-server and Ollama (its `format`) hold the answer to it; others ignore or refuse it
)
_TOO_MANY = 429
_BUSY_S = 1.0
_LEAST_S = 0.05  # asked for less, it would be asked without a pause for as long as it says so
_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})


class EndpointTeacher:
    """A connected client. It never retries by itself: the ledger counts every sending."""

    batches = False

    def __init__(self, client: Any, connections: Connections, model: str, config: LabelConfig) -> None:
        self.concurrency = config.concurrency
        self._client = client
        self._connections = connections
        self._model = model
        self._config = config

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply | Trouble]]:
        """Send one request after the other; TeacherRefused for a wrong key, an unknown model or an exhausted quota."""
        for request in requests:
            yield request, self._answer(request)

    def _answer(self, request: Request) -> Reply | Trouble:
        import openai

        started = time.perf_counter()
        try:
            body = self._client.chat.completions.with_raw_response.create(**self._arguments(request)).content
        except openai.APIStatusError as error:
            return self._judge_status(error)
        except openai.APITimeoutError:
            return Trouble(reason=f"no answer within label.timeout_s {self._config.timeout_s:g}", retryable=True)
        except (openai.OpenAIError, ValueError) as error:  # ValueError: a prompt that cannot be written as UTF-8
            return Trouble(
                reason=f"{self._config.base_url}: the connection or its answer broke: {self._told(error)}", retryable=True
            )
        outcome = read_completion(body, (time.perf_counter() - started) * 1000)
        if isinstance(outcome, Reply):
            return outcome
        return outcome.model_copy(update={"reason": f"{self._config.base_url}: {self._hidden(outcome.reason)}"})

    def serves(self) -> tuple[str, ...] | Trouble:
        """Return the names of the models the endpoint lists."""
        import openai

        try:
            listed = getattr(self._client.models.list(), "data", None)
        except (openai.OpenAIError, ValueError, AttributeError) as error:  # AttributeError: JSON that is no object
            return Trouble(reason=self._told(error), retryable=True)
        if not isinstance(listed, list):  # a server may send anything
            return Trouble(reason="its list of models is none", retryable=False)
        return tuple(str(getattr(model, "id", model)) for model in listed)

    def close(self) -> None:
        """Close the connections; requests in flight break at once."""
        self._connections.cut()
        self._client.close()

    def _told(self, error: Exception) -> str:
        """Return an error in one line, by what caused it: the client's own words for that are "Connection error."."""
        told = (str(error.__cause__) if error.__cause__ is not None else "") or str(error)
        return self._hidden(" ".join(told.split()))[:_TOLD_CHARS]

    def _hidden(self, text: str) -> str:
        """Return a text without the key, which a server may repeat, and without halves of characters."""
        named = self._config.api_key_env
        return hide(text, [named] if named else []).encode(errors="replace").decode()

    def _arguments(self, request: Request) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "model": self._model,
            "messages": [message.model_dump() for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "extra_headers": {"Idempotency-Key": request.key},
        }
        if request.top_logprobs:
            arguments |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.tools:
            arguments["tools"] = list(request.tools)
        if request.answer_schema is not None:
            arguments[_STRUCTURE] = {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": request.answer_schema},
            }
        own = {name: value for name, value in request.extra_body.items() if name != _STRUCTURE or name in arguments}
        kept = {name: value for name, value in arguments.items() if name not in own}
        return kept | {"extra_body": {name: value for name, value in own.items() if value is not None}}

    def _judge_status(self, error: Any) -> Trouble:
        status = error.status_code
        if status == 401 or (status == 403 and _refusal_code(error) == "teacher-refused"):
            named = self._config.api_key_env or "no variable: label.api_key_env is not set"
            raise TeacherRefused(
                f"{self._config.base_url} refused the key with status {status}: {self._told(error)}",
                remedy=f"Put a valid key into the environment variable that label.api_key_env names ({named}).",
            ) from None  # the client's own error repeats what the server said, the key too
        if status == 404 or error.code == "model_not_found":
            raise TeacherRefused(
                f"{self._config.base_url} does not serve the model {self._model!r}: {self._told(error)}",
                remedy=f"Mend label.base_url (it mostly ends in /v1) or the model's name in the card of {self._config.teacher}.",
            ) from None
        if status == 402 or error.code == "insufficient_quota":
            raise TeacherRefused(
                f"{self._config.base_url}: the account's quota is used up",
                remedy="Pay, or wait, then run again: no answer is lost.",
            ) from None
        if 300 <= status < 400:
            raise TeacherRefused(
                f"{self._config.base_url} sends requests on, with status {status}, to "
                f"{self._hidden(str(error.response.headers.get('location')))[:_TOLD_CHARS]!r}",
                remedy="If that place is to have the prompts, put its address into label.base_url.",
            ) from None
        retryable = status >= 500 or status in _RETRYABLE_STATUS
        return Trouble(
            reason=_STUTTER.sub("", f"status {status}: {self._told(error)}"),
            retryable=retryable,
            code="teacher-error" if retryable else _refusal_code(error),
            retry_after_s=_asked_for_s(error),
        )


def _asked_for_s(error: Any) -> float | None:
    """Return how long the endpoint asks to be left alone; one that is asked too much and names no time gets some."""
    headers = error.response.headers
    now = _date_of(headers.get("date")) or datetime.now(UTC)  # a date it names is one of its own clock
    milliseconds = retry_after_s(headers.get("retry-after-ms"), now)
    named = retry_after_s(headers.get("retry-after"), now) if milliseconds is None else milliseconds / 1000
    if named:
        return max(named, _LEAST_S)
    return _BUSY_S if error.status_code == _TOO_MANY else None  # no time, and one that is over, say nothing


def _refusal_code(error: Any) -> str:
    """Return what kind of refusal a status 4xx is; servers name the kind in `code` or only in their text."""
    said = f"{error.code} {error}".lower()
    if "context" in said and any(word in said for word in ("length", "exceed", "maximum", "window", "too long", "size")):
        return "teacher-context"
    return "teacher-filter" if any(word in said for word in _FILTERS) else "teacher-refused"


def retry_after_s(header: str | None, now: datetime) -> float | None:
    """Return the seconds a Retry-After header asks for, given as a number or a date; None when it says nothing usable."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        if (until := _date_of(header)) is None:
            return None
        seconds = (until - now).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None


def _date_of(header: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(header or "")
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def connect(card: ModelCard, config: LabelConfig) -> EndpointTeacher:
    """Make a client for the configured endpoint; sends nothing yet."""
    try:
        import openai
    except ImportError as error:
        raise ToolMissing("the openai client is not installed", remedy="pip install 'edgekiln[teacher]'") from error
    from core.label.connections import PLAIN, Connections

    connections = Connections(config.timeout_s)
    client = openai.OpenAI(
        base_url=config.base_url,
        api_key=_key(config.api_key_env) if config.api_key_env else _NO_KEY,
        timeout=config.timeout_s,
        max_retries=0,
        http_client=openai.DefaultHttpxClient(
            headers={"Accept-Encoding": PLAIN},
            follow_redirects=False,  # the prompts go where the configuration says and nowhere else
            event_hooks={"request": [connections.watch], "response": [connections.bound]},
        ),
    )
    return EndpointTeacher(client, connections, served_name(card), config)


def _key(named: str) -> str:
    """Return the key in a variable; ToolMissing for one that cannot be sent, whose error would repeat it otherwise."""
    key = secret(named).strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ToolMissing(
            f"the environment variable {named} holds no key: it has spaces, line breaks or other signs that no key has",
            remedy=f"Set it to the key alone: export {named}=...",
        )
    return key


def served_name(card: ModelCard) -> str:
    """Return the name an endpoint is asked for a model by."""
    if isinstance(card.source, EndpointModel):
        return card.source.model
    return card.source.repo if isinstance(card.source, HubModel) else card.name
