"""The schema's versions: which are known, which a database has, and bringing it forward. Never backward."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import duckdb

from core.errors import DatabaseBroken, DatabaseNewer


@dataclass(frozen=True)
class Migration:
    """One step forward; `sha256` is of its file, so that a step edited after it was applied is noticed."""

    version: int
    name: str
    sha256: str
    sql: str


def known() -> list[Migration]:
    """Return the shipped migrations in their order."""
    folder = resources.files("core.benchdb") / "migrations"
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".sql"):
            data = entry.read_bytes()
            version = int(entry.name.partition("_")[0])
            found.append(Migration(version, entry.name, hashlib.sha256(data).hexdigest(), data.decode()))
    return found


def latest() -> int:
    """Return the version this code writes."""
    return known()[-1].version


def migrate(connection: duckdb.DuckDBPyConnection) -> int:
    """Apply what a database lacks, each migration in one transaction, and return its version.

    DatabaseNewer when it is ahead of this code, DatabaseBroken when an applied migration differs from the shipped one.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations "
        "(version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, sha256 VARCHAR NOT NULL)"
    )
    applied = check(connection)
    for migration in known():
        if migration.version not in applied:
            _apply(connection, migration)
    return latest()


def check(connection: duckdb.DuckDBPyConnection) -> set[int]:
    """Return the applied versions; errors as `migrate`."""
    shipped = {migration.version: migration for migration in known()}
    applied = {}
    for version, name, sha256 in connection.execute("SELECT version, name, sha256 FROM schema_migrations").fetchall():
        applied[int(version)] = (str(name), str(sha256))
    if ahead := sorted(set(applied) - set(shipped)):
        raise DatabaseNewer(
            f"the database has migration {ahead[-1]}, this edgekiln knows up to {max(shipped)}",
            remedy="Upgrade edgekiln on this machine, or name another workspace with --workspace.",
        )
    for version, (name, sha256) in applied.items():
        if sha256 != shipped[version].sha256:
            raise DatabaseBroken(
                f"migration {name} was applied as {sha256[:12]}, this edgekiln ships {shipped[version].sha256[:12]}",
                remedy="Run `edgekiln db rebuild`: it makes the database again from the artifacts.",
            )
    return set(applied)


def _apply(connection: duckdb.DuckDBPyConnection, migration: Migration) -> None:
    connection.begin()
    try:
        connection.execute(migration.sql)
        connection.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, ?)", [migration.version, migration.name, migration.sha256]
        )
    except duckdb.Error:
        connection.rollback()
        raise
    connection.commit()
