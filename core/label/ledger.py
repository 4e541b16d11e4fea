"""The request ledger: one SQLite row for each request to a teacher, written before it is sent and committed with its answer."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from operator import not_
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from core.contract import Contract
from core.data.record import Message
from core.errors import ArtifactError, DiskFull
from core.files import digest_of

State = Literal["waiting", "answered", "failed"]

_SCHEMA_VERSION = 2
_BUSY_TIMEOUT_S = 30.0
_TABLE = """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'answered', 'failed')),
    teacher TEXT NOT NULL,
    request TEXT NOT NULL,
    answer TEXT,
    finish_reason TEXT,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    latency_ms REAL,
    error TEXT,
    sent INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    first_sent_at TEXT NOT NULL,
    finished_at TEXT,
    tool_calls TEXT,
    CHECK ((state = 'answered') = (answer IS NOT NULL))
) STRICT
"""


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

    `sample` numbers the answers to one prompt from 0; with `top_logprobs` the reply has so many a token.
    """

    teacher: str
    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    seed: int
    answer_schema: dict[str, Any] | None = None
    sample: int = Field(default=0, exclude_if=not_)
    top_logprobs: int = Field(default=0, exclude_if=not_)
    # not written where there is none, so that answers asked for before there were tools keep their keys
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


class Entry(Contract):
    """How a request stands: `sent` counts the sendings, `attempts` those that came to an end."""

    state: State
    reply: Reply | None
    error: str | None
    sent: int
    attempts: int


class Ledger:
    """The open ledger; its methods may be called from several threads. Once answered, a row never changes again."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._lock = threading.Lock()

    def find(self, key: str) -> Entry | None:
        """Return how a request stands, None when it was never sent."""
        rows = self._execute(
            "SELECT state, answer, finish_reason, prompt_tokens, completion_tokens, latency_ms, error, sent, attempts,"
            " tool_calls FROM requests WHERE key = ?",
            key,
        )
        return _entry(rows[0]) if rows else None

    def begin(self, request: Request) -> None:
        """Write a request as waiting, before it is sent."""
        self._execute(
            "INSERT INTO requests (key, state, teacher, request, sent, first_sent_at) VALUES (?, 'waiting', ?, ?, 1, ?)"
            " ON CONFLICT (key) DO UPDATE SET state = 'waiting', sent = sent + 1, error = NULL WHERE state <> 'answered'",
            request.key,
            request.teacher,
            json.dumps(request.model_dump(mode="json"), ensure_ascii=False),
            _now(),
        )

    def commit(self, key: str, reply: Reply) -> None:
        """Keep the answer to a waiting request for good; an answer that is already there stays."""
        self._execute(
            "UPDATE requests SET state = 'answered', answer = ?, finish_reason = ?, prompt_tokens = ?,"
            " completion_tokens = ?, latency_ms = ?, tool_calls = ?, error = NULL, attempts = attempts + 1, finished_at = ?"
            " WHERE key = ? AND state <> 'answered'",
            reply.text,
            reply.finish_reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            reply.latency_ms,
            json.dumps(reply.tool_calls, ensure_ascii=False) if reply.tool_calls else None,
            _now(),
            key,
        )

    def fail(self, key: str, error: str) -> None:
        """Note that a waiting request came to nothing; it may be sent again."""
        self._execute(
            "UPDATE requests SET state = 'failed', error = ?, attempts = attempts + 1, finished_at = ?"
            " WHERE key = ? AND state = 'waiting'",
            error,
            _now(),
            key,
        )

    def counts(self) -> dict[State, int]:
        """Return the number of requests by state."""
        found = dict(self._execute("SELECT state, count(*) FROM requests GROUP BY state"))
        return {state: found.get(state, 0) for state in ("waiting", "answered", "failed")}

    def _execute(self, sql: str, *values: object) -> list[Any]:
        with self._lock, _sqlite_errors(self._path):
            return self._connection.execute(sql, values).fetchall()


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger, made where it is missing; ArtifactError when the file is no ledger of this version, DiskFull.

    Every statement is its own transaction. WAL with `synchronous=FULL` syncs each commit (0.15 ms on an SSD, against
    answers that take a second): an answer that was paid for outlives a power cut, not only a kill.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sqlite_errors(path):
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        with _sqlite_errors(path):
            _prepare(connection, path)
        yield Ledger(connection, path)
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > _SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has ledger version {version} > {_SCHEMA_VERSION}",
            remedy="Use the edgekiln that wrote it, or a newer one.",
        )
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_TABLE)
    if version == 1:  # before teachers could call tools
        connection.execute("ALTER TABLE requests ADD COLUMN tool_calls TEXT")
    connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
    connection.execute("COMMIT")


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise DiskFull(
                f"no space left on the device that holds {path}",
                remedy="Free some space, then run the same command again: no answer is lost.",
            ) from error
        raise ArtifactError(
            f"the ledger {path} cannot be used: {error}",
            remedy="Move that file away and run again; its prompts are then asked once more.",
        ) from error


def _entry(row: tuple[Any, ...]) -> Entry:
    state, answer, finish_reason, prompt_tokens, completion_tokens, latency_ms, error, sent, attempts, calls = row
    reply = None
    if answer is not None:
        reply = Reply(
            text=answer,
            finish_reason=finish_reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            latency_ms=latency_ms,
            tool_calls=json.loads(calls) if calls else (),
        )
    return Entry(state=state, reply=reply, error=error, sent=sent, attempts=attempts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
