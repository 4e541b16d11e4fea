"""The part of the request ledger that is exchanged with other machines: which answers a store lacks, and taking theirs in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from core.label.entries import packed, reply_of
from core.label.ledger_errors import row_errors, sqlite_errors
from core.label.segment import Carried, stamp

_BUSY_TIMEOUT_S = 30.0
# the database itself keeps what is unsent, in the transaction that commits an answer: a kill between the two forgets none
_TABLES = (
    "CREATE TABLE merged (segment TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    "CREATE TABLE unsent (key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID",
    """CREATE TRIGGER unsent_answers AFTER UPDATE OF answer ON requests WHEN new.answer IS NOT NULL
    BEGIN INSERT OR IGNORE INTO unsent VALUES (new.key); END""",
)
_UNSENT = (
    "SELECT key, request, cost, sent, attempts, first_sent_at, finished_at, artifact_id, started_at,"
    " answer, finish_reason, prompt_tokens, completion_tokens, latency_ms, tool_calls, logprobs"
    " FROM unsent JOIN requests USING (key) LEFT JOIN sessions USING (session) WHERE state = 'answered' LIMIT ?"
)
# of two answers to one request the later stays, so that all machines end with the same, in whatever order they merge
_MERGE = (
    "INSERT INTO requests (key, state, teacher, request, answer, finish_reason, prompt_tokens, completion_tokens,"
    " latency_ms, tool_calls, logprobs, cost, sent, attempts, first_sent_at, finished_at, session)"
    " VALUES (?, 'answered', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET state = 'answered', answer = excluded.answer, finish_reason = excluded.finish_reason,"
    " prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,"
    " latency_ms = excluded.latency_ms, tool_calls = excluded.tool_calls, logprobs = excluded.logprobs,"
    " cost = excluded.cost, sent = excluded.sent + iif(state = 'answered', 0, sent),"
    " attempts = excluded.attempts + iif(state = 'answered', 0, attempts),"
    " first_sent_at = excluded.first_sent_at, finished_at = excluded.finished_at, session = excluded.session,"
    " answered_s = NULL, error = NULL, code = NULL"
    " WHERE state <> 'answered' OR (excluded.finished_at, excluded.answer) > (finished_at, answer)"
)


class Exchange:
    """An open ledger as the store's partner. Its own connection: one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def begin(self, store: str) -> set[str]:
        """Keep from now on what a store lacks, everything where it is a new one, and return the segments known here."""
        with self._transaction() as run:
            if not run("SELECT 1 FROM sqlite_master WHERE name = 'merged'").fetchone():
                for statement in _TABLES:
                    run(statement)
            if not run("SELECT 1 FROM merged WHERE segment = ?", (store,)).fetchone():
                run("DELETE FROM merged")
                run("INSERT INTO merged VALUES (?)", (store,))
                run("INSERT OR IGNORE INTO unsent SELECT key FROM requests WHERE state = 'answered'")
            return {segment for (segment,) in run("SELECT segment FROM merged")}

    def unsent(self, most: int) -> list[Carried]:
        """Return answers that the store lacks."""
        with sqlite_errors(self._path):
            rows = self._connection.execute(_UNSENT, (most,)).fetchall()
        return [self._carried(*row) for row in rows]

    def _carried(self, key: str, *row: Any) -> Carried:
        with row_errors(self._path, "requests", "key", key):
            answer = _answer_of(row)
            if answer.request.key != key:  # noted as sent under its own key it would be sent for ever
                raise ValueError(f"its request has the key {answer.request.key[:12]}")
        return answer

    def sent(self, segment: str, answers: Sequence[Carried]) -> None:
        """Note that answers are in the store, in a segment that need not be merged here."""
        with self._transaction() as run:
            for each in answers:
                run("DELETE FROM unsent WHERE key = ?", (each.request.key,))
            run("INSERT OR IGNORE INTO merged VALUES (?)", (segment,))

    def merge(self, segment: str, answers: Sequence[Carried]) -> int:
        """Take a segment's answers in, all or none, and return how many were news."""
        news = 0
        with self._transaction() as run:
            for each in answers:
                changed = run(_MERGE, _columns(each, self._session_of(each))).rowcount
                if changed:
                    run("DELETE FROM unsent WHERE key = ?", (each.request.key,))
                news += changed
            run("INSERT OR IGNORE INTO merged VALUES (?)", (segment,))
        return news

    def _session_of(self, answer: Carried) -> int | None:
        """Return this ledger's number of the session that took an answer, so that budgets count it."""
        if answer.artifact_id is None or answer.started_at is None:
            return None
        run, known = self._connection.execute, (answer.artifact_id, stamp(answer.started_at))
        found = run("SELECT session FROM sessions WHERE artifact_id = ? AND started_at = ?", known).fetchone()
        found = (
            found
            or run(
                "INSERT INTO sessions (artifact_id, started_at, teacher, seen_at, ended, questions, reused)"
                " VALUES (?, ?, ?, ?, 'elsewhere', 0, 0) RETURNING session",
                (*known, answer.request.teacher, stamp(answer.finished_at)),
            ).fetchone()
        )
        return int(found[0])

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with sqlite_errors(self._path), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection.execute


@contextmanager
def open_exchange(path: Path) -> Iterator[Exchange]:
    """Open a ledger that was opened before with `open_ledger`; ArtifactError, DiskFull."""
    with sqlite_errors(path):
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    with closing(connection):
        with sqlite_errors(path):
            connection.execute("PRAGMA synchronous = FULL")
        yield Exchange(connection, path)


def _answer_of(row: Sequence[Any]) -> Carried:
    request, cost, sent, attempts, first_sent_at, finished_at, artifact_id, started_at, *reply = row
    said = {
        "request": json.loads(request),
        "reply": reply_of(reply),
        "cost": cost,
        "sent": sent,
        "attempts": attempts,
        "first_sent_at": first_sent_at,
        "finished_at": finished_at,
        "artifact_id": artifact_id,
        "started_at": started_at,
    }
    return Carried.model_validate(said)


def _columns(answer: Carried, session: int | None) -> tuple[Any, ...]:
    request, reply = answer.request, answer.reply
    return (
        request.key,
        request.teacher,
        json.dumps(request.model_dump(mode="json"), ensure_ascii=False),
        reply.text,
        reply.finish_reason,
        reply.prompt_tokens,
        reply.completion_tokens,
        reply.latency_ms,
        json.dumps(reply.tool_calls, ensure_ascii=False) if reply.tool_calls else None,
        packed(reply.logprobs),
        answer.cost,
        answer.sent,
        answer.attempts,
        stamp(answer.first_sent_at),
        stamp(answer.finished_at),
        session,
    )
