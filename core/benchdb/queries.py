"""Questions to the database. They open the published read copy only, so that no reader ever blocks the writer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb
from pydantic import AwareDatetime

from core.benchdb.migrate import check
from core.benchdb.writer import read_copy
from core.contract import Contract, Origin
from core.errors import ArtifactMissing, DatabaseBroken
from core.workspace import Workspace


class StoredResult(Contract):
    """One result as the database holds it; the median is in tokens per second and None when the measurement failed."""

    result_id: str
    artifact_id: str
    device: str
    device_fingerprint: str
    memory_id: str
    model_id: str | None
    quantisation: str
    test: str
    n_prompt: int
    n_gen: int
    n_depth: int
    threads: int
    origin: Origin
    median_tps: float | None
    error: str | None
    measured_at: AwareDatetime
    samples_tps: tuple[float, ...]


_RESULTS = """
    SELECT r.result_id, r.artifact_id, r.device, r.device_fingerprint, r.memory_id, r.model_id, r.quantisation, r.test,
           r.n_prompt, r.n_gen, r.n_depth, r.threads, r.origin, r.median_tps, r.error,
           epoch_us(r.measured_at) / 1e6 AS measured_at,
           ARRAY(SELECT s.tps FROM samples s WHERE s.result_id = r.result_id ORDER BY s.sample_index) AS samples_tps
    FROM results r
"""
_ORDER = " ORDER BY r.measured_at, r.quantisation, r.test, r.result_id"


def results(workspace: Workspace) -> list[StoredResult]:
    """Return every result, oldest first; errors as `reading`."""
    with reading(workspace) as connection:
        return _read(connection.execute(_RESULTS + _ORDER))


def find_results(workspace: Workspace, prefix: str) -> list[StoredResult]:
    """Return the results whose id starts with a prefix; empty when there is no database yet."""
    if not read_copy(workspace).exists():
        return []
    with reading(workspace) as connection:
        return _read(connection.execute(f"{_RESULTS} WHERE starts_with(r.result_id, ?) {_ORDER}", [prefix]))


def holds(workspace: Workspace, result_ids: Iterable[str]) -> bool:
    """Say whether the database is there and its read copy has every one of these results."""
    if not (workspace.database.exists() and read_copy(workspace).exists()):
        return False
    wanted = sorted(set(result_ids))
    with reading(workspace) as connection:
        found = connection.execute("SELECT count(*) FROM results WHERE list_contains(?, result_id)", [wanted]).fetchone()
    return found is not None and int(found[0]) == len(wanted)


@contextmanager
def reading(workspace: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the read copy; ArtifactMissing when nothing was ingested, DatabaseNewer, DatabaseBroken."""
    path = read_copy(workspace)
    if not path.exists():
        raise ArtifactMissing(f"no database in {workspace.root}", remedy="Run a benchmark; its ingest makes the database.")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            check(connection)
            yield connection
    except duckdb.Error as error:
        raise DatabaseBroken(
            f"{path}: {str(error).splitlines()[0]}",
            remedy="Run `edgekiln db rebuild`: it publishes the read copy again.",
        ) from error


def _read(cursor: duckdb.DuckDBPyConnection) -> list[StoredResult]:
    names = [column[0] for column in cursor.description or ()]
    return [StoredResult.model_validate(dict(zip(names, row, strict=True))) for row in cursor.fetchall()]
