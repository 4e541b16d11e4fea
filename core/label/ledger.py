"""The request ledger: one SQLite row for each request to a teacher, written before it is sent and committed with its answer."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from operator import add
from pathlib import Path
from shutil import disk_usage
from typing import Any

from core.errors import ArtifactError, ArtifactMissing
from core.label.entries import Entry, SessionRow, Spent, State, entry_of, packed, reply_of
from core.label.ledger_errors import must_be_file, row_errors, sqlite_errors
from core.label.request import Reply, Request

_SCHEMA_VERSION = 4
_BUSY_TIMEOUT_S = 30.0
_READ_AT_ONCE = 500
_BESIDE_BYTES = 1 << 16  # the -shm has 32 KiB at first
_REQUESTS = """
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
_SESSIONS = """
CREATE TABLE IF NOT EXISTS sessions (
    session INTEGER PRIMARY KEY,
    artifact_id TEXT NOT NULL,
    teacher TEXT NOT NULL,
    started_at TEXT NOT NULL,
    seen_at TEXT NOT NULL,
    ended TEXT,
    questions INTEGER NOT NULL,
    reused INTEGER NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
) STRICT
"""
_DISCARDED = """
CREATE TABLE IF NOT EXISTS discarded (
    key TEXT NOT NULL, answer TEXT NOT NULL, finish_reason TEXT, prompt_tokens INTEGER, completion_tokens INTEGER,
    cost REAL, discarded_at TEXT NOT NULL
) STRICT
"""
# both cover the questions of `status`, so that a million fat rows are not read for it
_SPENT_INDEX = """
CREATE INDEX requests_spent ON requests
    (session, state, sent, prompt_tokens, completion_tokens, cost, latency_ms)
"""
_RECENT_INDEX = "CREATE INDEX requests_recent ON requests (session, answered_s) WHERE state = 'answered'"
_UPGRADES: dict[int, tuple[str, ...]] = {  # by the version they lead to
    2: ("ALTER TABLE requests ADD COLUMN tool_calls TEXT",),
    3: (
        "ALTER TABLE requests ADD COLUMN code TEXT",
        "ALTER TABLE requests ADD COLUMN cost REAL",
        "ALTER TABLE requests ADD COLUMN session INTEGER",
        "ALTER TABLE requests ADD COLUMN logprobs BLOB",
        _SPENT_INDEX,
        "CREATE INDEX requests_recent ON requests (session, finished_at) WHERE state = 'answered'",
    ),
    # by the session's own clock: the wall's jumps (suspend, NTP)
    4: ("ALTER TABLE requests ADD COLUMN answered_s REAL", "DROP INDEX requests_recent", _RECENT_INDEX),
}


class Ledger:
    """The open ledger; its methods may be called from several threads. Once answered, a row never changes again."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self._lock = threading.Lock()
        self._session: int | None = None
        self._began_s = 0.0

    def find(self, key: str) -> Entry | None:
        """Return how a request stands, None when it was never sent."""
        rows = self._execute(
            "SELECT state, error, code, sent, attempts, session, answer, finish_reason, prompt_tokens, completion_tokens,"
            " latency_ms, tool_calls, logprobs FROM requests WHERE key = ?",
            key,
        )
        with row_errors(self.path, "requests", "key", key):
            return entry_of(rows[0]) if rows else None

    def begin(self, request: Request) -> None:
        """Write a request as waiting, before it is sent."""
        self._execute(
            "INSERT INTO requests (key, state, teacher, request, sent, first_sent_at, session)"
            " VALUES (?, 'waiting', ?, ?, 1, ?, ?) ON CONFLICT (key) DO UPDATE SET state = 'waiting', sent = sent + 1,"
            " error = NULL, code = NULL, session = excluded.session WHERE state <> 'answered'",
            request.key,
            request.teacher,
            json.dumps(request.model_dump(mode="json"), ensure_ascii=False),
            _now(),
            self._session,
        )

    def commit(self, key: str, reply: Reply, cost: float | None = None) -> None:
        """Keep the answer to a waiting request for good; an answer that is already there stays."""
        self._execute(
            "UPDATE requests SET state = 'answered', answer = ?, finish_reason = ?, prompt_tokens = ?,"
            " completion_tokens = ?, latency_ms = ?, tool_calls = ?, logprobs = ?, cost = ?, error = NULL, code = NULL,"
            " attempts = attempts + 1, finished_at = ?, answered_s = ? WHERE key = ? AND state <> 'answered'",
            reply.text,
            reply.finish_reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            reply.latency_ms,
            json.dumps(reply.tool_calls, ensure_ascii=False) if reply.tool_calls else None,
            packed(reply.logprobs),
            cost,
            _now(),
            time.perf_counter() - self._began_s if self._session is not None else None,
            key,
        )

    def fail(self, key: str, error: str, code: str = "teacher-error") -> None:
        """Note that a waiting request came to nothing; it may be sent again."""
        self._execute(
            "UPDATE requests SET state = 'failed', error = ?, code = ?, attempts = attempts + 1, finished_at = ?"
            " WHERE key = ? AND state = 'waiting'",
            error,
            code,
            _now(),
            key,
        )

    def discard(self, keys: Sequence[str]) -> int:
        """Let answers be asked for again and return how many; what they were and cost stays in the ledger."""
        found = 0
        for key in keys:
            with self._lock, sqlite_errors(self.path), _transaction(self._connection):
                moved = self._connection.execute(
                    "INSERT INTO discarded SELECT key, answer, finish_reason, prompt_tokens, completion_tokens, cost, ?"
                    " FROM requests WHERE key = ? AND state = 'answered'",
                    (_now(), key),
                ).rowcount
                self._connection.execute(
                    "UPDATE requests SET state = 'failed', answer = NULL, error = 'its answer was discarded',"
                    " code = 'discarded', prompt_tokens = NULL, completion_tokens = NULL, cost = NULL"
                    " WHERE key = ? AND state = 'answered'",
                    (key,),
                )
            found += moved
        return found

    def start(self, artifact_id: str, teacher: str, questions: int, reused: int) -> None:
        """Open a session: what is sent from now on belongs to it."""
        now = _now()
        ((self._session,),) = self._execute(
            "INSERT INTO sessions (artifact_id, teacher, started_at, seen_at, questions, reused) VALUES (?, ?, ?, ?, ?, ?)"
            " RETURNING session",
            artifact_id,
            teacher,
            now,
            now,
            questions,
            reused,
        )
        self._began_s = time.perf_counter()

    def tell(self, done: int, ended: str | None = None) -> None:
        """Write down how many questions of the session are done, and at last how it ended."""
        self._execute(
            "UPDATE sessions SET done = ?, seen_at = ?, ended = ? WHERE session = ?", done, _now(), ended, self._session
        )

    def sessions(self) -> list[SessionRow]:
        """Return all sessions, the newest first."""
        rows = self._execute(
            "SELECT session, artifact_id, teacher, started_at, seen_at, ended, questions, reused, done FROM sessions"
            " ORDER BY session DESC"
        )
        return [self._session_row(row) for row in rows]

    def _session_row(self, row: tuple[Any, ...]) -> SessionRow:
        with row_errors(self.path, "sessions", "session", row[0]):
            return SessionRow.model_validate(dict(zip(SessionRow.model_fields, row, strict=True)))

    def spent(self, artifact_id: str) -> Spent:
        """Return what all sessions of one labelling took, killed ones and discarded answers too."""
        ((*figures,),) = self._execute(
            "SELECT coalesce(sum(sent), 0), coalesce(sum(state = 'answered'), 0), coalesce(sum(state = 'failed'), 0),"
            " coalesce(sum(state = 'waiting'), 0), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0),"
            " coalesce(sum(cost), 0.0), count(cost) FROM requests"
            " WHERE session IN (SELECT session FROM sessions WHERE artifact_id = ?)",
            artifact_id,
        )
        ((*discarded,),) = self._execute(
            "SELECT coalesce(sum(gone.prompt_tokens), 0), coalesce(sum(gone.completion_tokens), 0),"
            " coalesce(sum(gone.cost), 0.0), count(gone.cost)"
            " FROM discarded AS gone CROSS JOIN requests USING (key)"  # the few first
            " WHERE session IN (SELECT session FROM sessions WHERE artifact_id = ?)",
            artifact_id,
        )
        took = [*figures[:4], *map(add, figures[4:], discarded)]
        return Spent.model_validate(dict(zip(Spent.model_fields, took, strict=True)))

    def recent(self, session: int, most: int) -> list[float]:
        """Return when the newest answers of a session came, the newest first, in seconds of the session's own clock.

        That one goes on evenly whatever is done to the clock on the wall, and stands while the machine sleeps.
        """
        rows = self._execute(
            "SELECT answered_s FROM requests WHERE session = ? AND state = 'answered' AND answered_s IS NOT NULL"
            " ORDER BY answered_s DESC LIMIT ?",
            session,
            most,
        )
        return [moment_s for (moment_s,) in rows]

    def failed(self, most: int) -> list[dict[str, Any]]:
        """Return the requests that came to nothing: key, code, error, sent, finished_at and the last message."""
        names = ("key", "code", "error", "sent", "finished_at")
        rows = self._execute(
            "SELECT key, code, error, sent, finished_at, request FROM requests WHERE state = 'failed'"
            # says nothing, but lets the index find the few among a million
            " AND (session IS NULL OR session IN (SELECT session FROM sessions))"
            " ORDER BY finished_at DESC LIMIT ?",
            most,
        )
        return [{**dict(zip(names, row, strict=False)), "asked": self._last_message(row[0], row[-1])} for row in rows]

    def _last_message(self, key: str, request: str) -> str:
        with row_errors(self.path, "requests", "key", key):
            return str(json.loads(request)["messages"][-1]["content"])

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield every request with its answer, in the order of the keys, a few at a time."""
        names = ("key", "state", "teacher", "request", "code", "error", "sent", "first_sent_at", "finished_at", "cost")
        key = ""
        while rows := self._execute(
            "SELECT key, state, teacher, request, code, error, sent, first_sent_at, finished_at, cost, answer,"
            " finish_reason, prompt_tokens, completion_tokens, latency_ms, tool_calls, logprobs FROM requests"
            " WHERE key > ? ORDER BY key LIMIT ?",
            key,
            _READ_AT_ONCE,
        ):
            for row in rows:
                with row_errors(self.path, "requests", "key", row[0]):
                    reply = reply_of(row[len(names) :])
                record = dict(zip(names, row, strict=False))
                yield {**record, "reply": reply.model_dump(mode="json") if reply else None}
            key = rows[-1][0]

    def counts(self) -> dict[State, int]:
        """Return the number of requests by state."""
        found = dict(self._execute("SELECT state, count(*) FROM requests GROUP BY state"))
        return {state: found.get(state, 0) for state in ("waiting", "answered", "failed")}

    def _execute(self, sql: str, *values: object) -> list[Any]:
        with self._lock, sqlite_errors(self.path):
            return self._connection.execute(sql, values).fetchall()


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger, made where it is missing; ArtifactError when the file is no ledger of this version, DiskFull.

    Every statement is its own transaction. WAL with `synchronous=FULL` syncs each commit (0.15 ms on an SSD, against
    answers that take a second): an answer that was paid for outlives a power cut, not only a kill.
    """
    must_be_file(path)
    with sqlite_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _connected(path, f"{path.absolute().as_uri()}?mode=rwc") as connection:
        with sqlite_errors(path):
            _version_of(connection, path)
            _prepare(connection)
        yield Ledger(connection, path)


@contextmanager
def existing_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger that is there; ArtifactMissing when nothing was ever asked."""
    _must_exist(path)
    with open_ledger(path) as ledger:
        yield ledger


@contextmanager
def read_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger that is there to read alone, of this version or an older one; ArtifactMissing, ArtifactError.

    The file is not changed, and who writes it is not held up. SQLite may put its `-wal` and `-shm` beside it.
    """
    _must_exist(path)
    with _connected(path, f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if _is_sealed(path) else ''}") as connection:
        with sqlite_errors(path):
            if _version_of(connection, path) < _SCHEMA_VERSION:
                _show_as_newest(connection)
        yield Ledger(connection, path)


def _is_sealed(path: Path) -> bool:
    """Say whether a ledger lies where nothing can be put beside it and nothing is: nobody can write it then."""
    with sqlite_errors(path):
        shut = not os.access(path.parent, os.W_OK, effective_ids=True) or disk_usage(path.parent).free < _BESIDE_BYTES
        beside = Path(f"{path}-wal")
        return shut and not (beside.exists() and beside.stat().st_size)


def _must_exist(path: Path) -> None:
    must_be_file(path)
    if not path.exists():
        raise ArtifactMissing(
            f"there is no ledger at {path}: no teacher was asked in this workspace",
            remedy="Run edgekiln label first, or name the workspace: --workspace PATH.",
        )


@contextmanager
def _connected(path: Path, uri: str) -> Iterator[sqlite3.Connection]:
    with sqlite_errors(path):
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    with closing(connection):
        yield connection


def _version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a ledger, 0 for an empty file; ArtifactError for a newer one and for another database."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version > _SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has ledger version {version} > {_SCHEMA_VERSION}",
            remedy="Use the edgekiln that wrote it, or a newer one.",
        )
    if tables and "requests" not in tables:
        raise ArtifactError(
            f"{path} is no ledger: its tables are {', '.join(sorted(tables))[:80]}",
            remedy="Put the ledger back, or move that file away: prompts are then asked once more.",
        )
    return int(version)


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _SCHEMA_VERSION:
        return
    with _transaction(connection):
        (version,) = connection.execute("PRAGMA user_version").fetchone()  # another process may have been faster
        for table in (_REQUESTS, _SESSIONS, _DISCARDED):
            connection.execute(table)
        for target in range((version or 2) + 1, _SCHEMA_VERSION + 1):  # the table as written above is version 2
            for statement in _UPGRADES[target]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")


def _show_as_newest(connection: sqlite3.Connection) -> None:
    """Cover the tables of an older ledger by views of this connection alone, in which what came later is NULL."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as newest:
        _prepare(newest)
        for (table,) in newest.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            has = {row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")}
            names = [row[1] for row in newest.execute(f"PRAGMA table_info({table})")]
            shown = ", ".join(name if name in has else f"NULL AS {name}" for name in names)
            connection.execute(f"CREATE TEMP VIEW {table} AS SELECT {shown} {f'FROM main.{table}' if has else 'WHERE 0'}")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    with connection:  # commits, or rolls back when it is left by an error
        connection.execute("BEGIN IMMEDIATE")
        yield


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
