"""The one writer of the database: one transaction an ingest, then a read copy by rename. Reading is in queries.py."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import duckdb

from core.benchdb import machine, projection, publications
from core.benchdb.migrate import check, migrate
from core.contract import Stage
from core.env.machine_bench import kept_runs
from core.errors import DatabaseBroken, DiskFull, WorkspaceLocked
from core.files import disk_full, disk_full_is_an_error, sync_folder
from core.nouns import BenchmarkRun
from core.publish.record import readable_publications
from core.workspace import Workspace, artifacts

_POLL_S = 0.05
_DISK_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))  # DuckDB tells them in words, not as an OSError


@dataclass(frozen=True)
class Written:
    """How many results of a run were new, and how many the database had."""

    migration: int
    inserted: int
    already_there: int


def read_copy(workspace: Workspace) -> Path:
    """Return the path of the published read copy."""
    return workspace.root / "edgekiln.read.duckdb"


def write(workspace: Workspace, run: BenchmarkRun, lock_timeout_s: float) -> Written:
    """Put a run's results and lineage into the database in one transaction and publish the read copy.

    Where the database is missing, every other run of the workspace is put back first. WorkspaceLocked when another
    writer holds the database longer than the timeout; DatabaseNewer, DatabaseBroken, DiskFull.
    """
    with _held(workspace, lock_timeout_s) as deadline:
        if not workspace.database.exists():
            _rebuild(workspace, [other for other in _runs(workspace) if other.artifact_id != run.artifact_id], deadline)
        written = _ingest(workspace, workspace.database, [run], deadline)
        _publish_copy(workspace)
    return written


def write_kept(workspace: Workspace, lock_timeout_s: float) -> None:
    """Put what is kept beside the artifacts into the database and publish the read copy; errors as `write`.

    Those are the runs of `edgekiln env bench` and what was published where.
    """
    with _held(workspace, lock_timeout_s) as deadline:
        if workspace.database.exists():
            _ingest(workspace, workspace.database, [], deadline)
        else:
            _rebuild(workspace, _runs(workspace), deadline)
        _publish_copy(workspace)


def rebuild(workspace: Workspace, lock_timeout_s: float) -> int:
    """Make the database again from the artifacts, beside the old one, swap it in, and return how many runs it holds."""
    with _held(workspace, lock_timeout_s) as deadline:
        runs = _runs(workspace)
        _rebuild(workspace, runs, deadline)
        _publish_copy(workspace)
    return len(runs)


def _runs(workspace: Workspace) -> list[BenchmarkRun]:
    return [run for run in artifacts(workspace, Stage.BENCH) if isinstance(run, BenchmarkRun)]


def _rebuild(workspace: Workspace, runs: Sequence[BenchmarkRun], deadline: float) -> None:
    fresh = workspace.root / ".edgekiln.duckdb.new"
    _remove(fresh)
    if workspace.database.exists():
        with suppress(DatabaseBroken):
            _settle(workspace.database, deadline)
    _ingest(workspace, fresh, runs, deadline)
    _wal(workspace.database).unlink(missing_ok=True)
    fresh.replace(workspace.database)
    sync_folder(workspace.root)


def _settle(path: Path, deadline: float) -> None:
    """Fold a database's log into it: left behind, it would be replayed into the successor. DatabaseNewer is refused."""
    with closing(_connect(path, deadline)) as connection, _broken_is_an_error(path):
        check(connection)


def _ingest(workspace: Workspace, path: Path, runs: Sequence[BenchmarkRun], deadline: float) -> Written:
    connection = _connect(path, deadline)
    try:
        with disk_full_is_an_error(path.parent), _broken_is_an_error(path):
            migration = migrate(connection)
            before = _count(connection)
            connection.begin()
            for run in runs:
                _insert(connection, projection.TABLES, projection.rows_of(workspace, run))
            _insert_kept(connection, workspace)
            inserted = _count(connection) - before
            connection.commit()
            connection.execute("CHECKPOINT")
    finally:
        connection.close()  # rolls back what was not committed
    return Written(migration, inserted, sum(len(projection.result_ids(run)) for run in runs) - inserted)


def _insert_kept(connection: duckdb.DuckDBPyConnection, workspace: Workspace) -> None:
    for kept in kept_runs(workspace):
        _insert(connection, machine.TABLES, machine.rows_of(kept))
    for told in readable_publications(workspace):
        _insert(connection, publications.TABLES, publications.rows_of(told))


def _insert(connection: duckdb.DuckDBPyConnection, tables: Sequence[str], rows: Mapping[str, list[projection.Row]]) -> None:
    for table in tables:
        for row in rows[table]:
            columns, marks = ", ".join(row), ", ".join("?" * len(row))
            # table and column names are this package's own constants; every value is bound
            statement = f"INSERT INTO {table} ({columns}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
            connection.execute(statement, list(row.values()))


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("SELECT count(*) FROM results").fetchone()
    return int(found[0]) if found else 0


@contextmanager
def _held(workspace: Workspace, lock_timeout_s: float) -> Iterator[float]:
    """Hold the writers' own lock, which also covers publishing; yields the deadline. A kill releases it."""
    deadline = time.perf_counter() + lock_timeout_s
    with (workspace.root / "edgekiln.duckdb.lock").open("a") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.perf_counter() > deadline:
                    raise _locked(workspace.database, lock_timeout_s) from error
            time.sleep(_POLL_S)
        yield deadline


def _connect(path: Path, deadline: float) -> duckdb.DuckDBPyConnection:
    """Open a database, waiting for a program other than edgekiln that has it open."""
    started = time.perf_counter()
    while True:
        try:
            return duckdb.connect(str(path))
        except duckdb.IOException as error:
            if "Could not set lock" not in str(error):
                raise _broken(path, error) from error
            if time.perf_counter() > deadline:
                raise _locked(path, deadline - started) from error
        except duckdb.Error as error:
            raise _broken(path, error) from error
        time.sleep(_POLL_S)


@contextmanager
def _broken_is_an_error(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: duckdb.Error) -> DatabaseBroken | DiskFull:
    if any(reason in str(error) for reason in _DISK_FULL):
        return disk_full(path.parent)
    return DatabaseBroken(
        f"{path}: {str(error).splitlines()[0]}",
        remedy="Run `edgekiln db rebuild`: it makes the database again from the artifacts.",
    )


def _locked(path: Path, waited_s: float) -> WorkspaceLocked:
    return WorkspaceLocked(
        f"{path} was held by another program for > {waited_s:.0f} s (ingest.lock_timeout_s)",
        remedy="Close the program that has the database open (questions use edgekiln.read.duckdb), then run again.",
    )


def _publish_copy(workspace: Workspace) -> None:
    target = read_copy(workspace)
    scratch = target.with_name(f".{target.name}.tmp")
    with disk_full_is_an_error(target.parent):
        shutil.copyfile(workspace.database, scratch)
        scratch.replace(target)
    sync_folder(target.parent)


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}.wal")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    _wal(path).unlink(missing_ok=True)
