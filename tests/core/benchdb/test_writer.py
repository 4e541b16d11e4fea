from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import pytest

from core.benchdb import projection, queries, writer
from core.benchdb.migrate import Migration, _apply, known
from core.contract import Origin, Stage
from core.errors import ArtifactMissing, DatabaseBroken, DatabaseNewer, DiskFull, WorkspaceLocked
from core.workspace import Workspace, open_workspace
from tests.core.published_chain import benchmark, chain, measurement

ROOT = Path(__file__).parents[3]


def dump(path: Path) -> dict[str, list[tuple]]:
    """Return every row of every table, with times as they are stored, in one order."""
    with duckdb.connect(str(path), read_only=True) as connection:
        names = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables() ORDER BY 1").fetchall()]
        query = "SELECT * REPLACE (created_at::VARCHAR AS created_at) FROM artifacts"
        return {
            name: sorted(connection.execute(query if name == "artifacts" else f"SELECT * FROM {name}").fetchall(), key=repr)
            for name in names
        }


def test_a_rebuilt_database_equals_the_one_that_grew_run_by_run(workspace: Workspace) -> None:
    gguf, first = chain(workspace)
    other_gguf, other = chain(workspace, "another prompt")
    for run in (benchmark(workspace, gguf, occasion=1), other, first, benchmark(workspace, other_gguf, occasion=2)):
        writer.write(workspace, run, 5)
    grown = dump(workspace.database)
    assert all(grown[table] for table in projection.TABLES)
    assert writer.rebuild(workspace, 5) == 4
    assert dump(workspace.database) == grown
    assert dump(writer.read_copy(workspace)) == grown


def test_the_same_run_written_twice_adds_nothing(workspace: Workspace) -> None:
    _, run = chain(workspace)
    first, again = writer.write(workspace, run, 5), writer.write(workspace, run, 5)
    assert (first.inserted, first.already_there) == (4, 0)
    assert (again.inserted, again.already_there) == (0, 4)


def test_equal_speeds_of_two_runs_are_two_results(workspace: Workspace) -> None:
    gguf, _ = chain(workspace)
    same = (measurement("Q8_0", "tg32", 30.0),)
    for occasion in (3, 4):
        writer.write(workspace, benchmark(workspace, gguf, measurements=same, occasion=occasion), 5)
    assert len(queries.results(workspace)) == 6 - 4 + 4  # the default run of four came back with the missing database


def test_a_failed_measurement_is_a_row_with_its_error_and_no_number(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    failed = [result for result in queries.results(workspace) if result.error]
    assert [(one.median_tps, one.samples_tps) for one in failed] == [(None, ())]


def test_every_sample_knows_its_process_start(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with queries.reading(workspace) as connection:
        starts = connection.execute("SELECT DISTINCT sample_index, process_start FROM samples ORDER BY 1").fetchall()
    assert starts == [(0, 0), (1, 0), (2, 1), (3, 1)]


def test_the_losses_of_every_file_are_there_and_a_rejected_file_has_no_hash(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with queries.reading(workspace) as connection:
        losses = connection.execute(
            "SELECT subject, quantisation, held_out_loss, origin FROM quality ORDER BY 1, 2"
        ).fetchall()
        files = connection.execute(
            "SELECT quantisation, accepted, identity IS NULL FROM models WHERE kind = 'gguf'"
        ).fetchall()
    assert ("base", "", 1.5, "measured") in losses
    assert [row[1] for row in losses if row[0] == "quantisation"] == ["Q4_0", "Q4_K_M", "Q8_0"]
    assert sorted(files) == [("Q4_0", True, False), ("Q4_K_M", False, True), ("Q8_0", True, False)]


def test_what_a_file_was_estimated_to_need_and_what_was_measured_are_rows_of_different_origin(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with queries.reading(workspace) as connection:
        needs = connection.execute(
            "SELECT quantisation, n_ctx, origin, bytes, measured_on FROM memory_needs ORDER BY 1, 3"
        ).fetchall()
    assert needs == [
        ("Q4_0", 2048, "predicted", 64 << 20, None),
        ("Q4_K_M", 2048, "predicted", 64 << 20, None),
        ("Q8_0", 2048, "measured", 60 << 20, "the exporting host (x86_64)"),
        ("Q8_0", 2048, "predicted", 64 << 20, None),
    ]


@pytest.mark.parametrize("change", ["origin = 'measured'", "origin = 'guessed'", "bytes = 0", "measured_on = 'somewhere'"])
def test_the_schema_itself_keeps_an_estimate_from_passing_for_a_measurement(workspace: Workspace, change: str) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with duckdb.connect(str(workspace.database)) as connection, pytest.raises(duckdb.ConstraintException):
        connection.execute(f"UPDATE memory_needs SET {change} WHERE quantisation = 'Q4_0'")


@pytest.mark.parametrize("text", ["'; DROP TABLE results; --", '"); DELETE FROM hosts; --', "Robert\x00", "é\n\u2028|"])
def test_hostile_text_is_a_value_like_any_other(workspace: Workspace, text: str) -> None:
    gguf, _ = chain(workspace)
    hostile = measurement("Q8_0", "tg32", 9.0).model_copy(update={"test": text, "raw": ({"note": text},)})
    writer.write(workspace, benchmark(workspace, gguf, measurements=(hostile,), occasion=7), 5)
    assert text in [result.test for result in queries.results(workspace)]
    assert queries.find_results(workspace, text) == []


def test_an_emulated_speed_stays_emulated(workspace: Workspace) -> None:
    gguf, _ = chain(workspace)
    run = benchmark(workspace, gguf, measurements=(measurement("Q8_0", "tg32", 9.0, Origin.EMULATED),), occasion=8)
    writer.write(workspace, run, 5)
    assert [r.origin for r in queries.results(workspace) if r.artifact_id == run.artifact_id] == [Origin.EMULATED]


@pytest.mark.parametrize(
    "change",
    ["origin = NULL", "origin = 'guessed'", "median_tps = NULL", "error = 'both'", "median_tps = 'nan'", "median_tps = -1"],
)
def test_the_schema_itself_refuses_a_number_that_is_not_honest(workspace: Workspace, change: str) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with duckdb.connect(str(workspace.database)) as connection, pytest.raises(duckdb.ConstraintException):
        connection.execute(f"UPDATE results SET {change} WHERE error IS NULL")


def test_a_run_whose_figures_break_the_schema_leaves_the_database_as_it_was(workspace: Workspace) -> None:
    gguf, run = chain(workspace)
    writer.write(workspace, run, 5)
    before = dump(workspace.database)
    contradiction = measurement("Q8_0", "tg32", 9.0).model_copy(update={"error": "and yet a number"})
    with pytest.raises(DatabaseBroken, match="CHECK"):
        writer.write(workspace, benchmark(workspace, gguf, measurements=(contradiction,), occasion=9), 5)
    assert dump(workspace.database) == before


def test_a_lost_database_comes_back_with_every_run(workspace: Workspace) -> None:
    gguf, first = chain(workspace)
    second = benchmark(workspace, gguf, occasion=1)
    writer.write(workspace, first, 5)
    writer.write(workspace, second, 5)
    before = dump(workspace.database)
    workspace.database.unlink()
    assert writer.write(workspace, second, 5).inserted == 4
    assert dump(workspace.database) == before


def test_a_run_whose_ancestor_is_gone_keeps_its_edge(workspace: Workspace) -> None:
    _, run = chain(workspace)
    data = next((workspace.root / "artifacts" / "data").iterdir())
    (data / "manifest.json").unlink()
    writer.write(workspace, run, 5)
    tables = dump(workspace.database)
    assert data.name in [row[2] for row in tables["lineage"]]
    assert data.name not in [row[0] for row in tables["artifacts"]]


def test_a_database_of_a_newer_edgekiln_is_refused_with_the_remedy(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with duckdb.connect(str(workspace.database)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (999, '999_future.sql', 'abc')")
    with pytest.raises(DatabaseNewer, match=r"migration 999.*\nFix: Upgrade edgekiln"):
        writer.write(workspace, run, 5)
    with pytest.raises(DatabaseNewer):
        writer.rebuild(workspace, 5)


def test_an_edited_migration_is_noticed(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    with duckdb.connect(str(workspace.database)) as connection:
        connection.execute("UPDATE schema_migrations SET sha256 = 'abc'")
    with pytest.raises(DatabaseBroken, match="was applied as abc"):
        writer.write(workspace, run, 5)


def test_a_migration_that_fails_leaves_nothing_of_itself() -> None:
    broken = Migration(1, "001_broken.sql", "0" * 64, "CREATE TABLE good (a INTEGER); CREATE TABLE good (a INTEGER);")
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE schema_migrations (version INTEGER, name VARCHAR, sha256 VARCHAR)")
        with pytest.raises(duckdb.Error, match="already exists"):
            _apply(connection, broken)
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("schema_migrations",)]


def test_migrations_count_from_one_without_gaps() -> None:
    assert [migration.version for migration in known()] == list(range(1, len(known()) + 1))


def test_a_file_that_is_no_database_is_refused_and_rebuild_replaces_it(workspace: Workspace) -> None:
    _, run = chain(workspace)
    workspace.database.write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseBroken, match="not a valid DuckDB"):
        writer.write(workspace, run, 5)
    assert writer.rebuild(workspace, 5) == 1
    assert len(queries.results(workspace)) == 4


def test_questions_to_a_broken_or_missing_read_copy_say_so(workspace: Workspace) -> None:
    with pytest.raises(ArtifactMissing, match="no database"):
        queries.results(workspace)
    writer.read_copy(workspace).write_bytes(b"x" * 9000)
    with pytest.raises(DatabaseBroken):
        queries.results(workspace)


def test_a_reader_with_the_read_copy_open_does_not_stop_the_writer(workspace: Workspace) -> None:
    gguf, run = chain(workspace)
    writer.write(workspace, run, 5)
    script = (
        "import duckdb,sys,time; c=duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); time.sleep(60)"
    )
    with _child(script, str(writer.read_copy(workspace))) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        writer.write(workspace, benchmark(workspace, gguf, occasion=1), 1)
        reader.kill()
    assert len(queries.results(workspace)) == 8


def test_another_program_on_the_database_is_waited_for_only_so_long(workspace: Workspace) -> None:
    _, run = chain(workspace)
    writer.write(workspace, run, 5)
    script = "import duckdb,sys,time; c=duckdb.connect(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    with _child(script, str(workspace.database)) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        started = time.perf_counter()
        with pytest.raises(WorkspaceLocked, match="was held by another program"):
            writer.write(workspace, run, 0.3)
        assert time.perf_counter() - started < 5
        threading.Timer(0.4, holder.kill).start()
        assert writer.write(workspace, run, 20).already_there == 4


def test_two_writing_processes_both_succeed_one_after_the_other(workspace: Workspace) -> None:
    gguf, first = chain(workspace)
    runs = [first, *(benchmark(workspace, gguf, occasion=occasion) for occasion in (1, 2))]
    children = [_child(_WRITE, str(workspace.root), run.artifact_id) for run in runs]
    for child in children:
        child.communicate(timeout=60)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert len(queries.results(workspace)) == 12
    assert dump(writer.read_copy(workspace)) == dump(workspace.database)


def test_two_writing_threads_both_succeed(workspace: Workspace) -> None:
    gguf, first = chain(workspace)
    threads = [
        threading.Thread(target=writer.write, args=(workspace, run, 20))
        for run in (first, benchmark(workspace, gguf, occasion=1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(queries.results(workspace)) == 8


@pytest.mark.parametrize("table", ["models", "samples"])
def test_a_kill_within_the_transaction_leaves_the_old_database(workspace: Workspace, table: str) -> None:
    gguf, first = chain(workspace)
    writer.write(workspace, first, 5)
    before = dump(workspace.database)
    second = benchmark(workspace, gguf, occasion=1)
    assert _killed(workspace, second.artifact_id, f"in {table}")
    assert dump(writer.read_copy(workspace)) == before
    with duckdb.connect(str(workspace.database)) as connection:  # replays what the killed writer's log committed
        assert connection.execute("SELECT count(*) FROM results").fetchone() == (4,)
    assert writer.write(workspace, second, 5).inserted == 4


@pytest.mark.parametrize("point", ["before copying", "before the rename"])
def test_a_kill_after_the_commit_leaves_the_old_read_copy_and_the_next_write_publishes(
    workspace: Workspace, point: str
) -> None:
    gguf, first = chain(workspace)
    writer.write(workspace, first, 5)
    second = benchmark(workspace, gguf, occasion=1)
    assert _killed(workspace, second.artifact_id, point)
    assert len(queries.results(workspace)) == 4
    assert not queries.holds(workspace, projection.result_ids(second))
    assert writer.write(workspace, second, 5).inserted == 0
    assert len(queries.results(workspace)) == 8


def test_a_kill_while_rebuilding_leaves_the_old_database(workspace: Workspace) -> None:
    _, first = chain(workspace)
    writer.write(workspace, first, 5)
    before = dump(workspace.database)
    assert _killed(workspace, first.artifact_id, "in results", rebuild=True)
    assert dump(workspace.database) == before
    writer.rebuild(workspace, 5)
    assert dump(workspace.database) == before
    assert not list(workspace.root.glob(".edgekiln*"))


def test_what_was_made_again_since_is_not_taken_for_the_ancestor(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "w")
    _, run = chain(workspace)
    forced = open_workspace(tmp_path / "w", frozenset({Stage.EXPORT}))
    (workspace.root / "artifacts" / "export" / run.parents[0].artifact_id / "note.txt").write_text("unlisted")
    assert chain(forced)[0].content_digest == run.parents[0].content_digest
    changed = run.parents[0].model_copy(update={"content_digest": "0" * 64})
    assert projection._ancestors(workspace, run.model_copy(update={"parents": (changed,)})) == []


_WRITE = """
import sys
from pathlib import Path
from core.benchdb import writer
from core.contract import Stage
from core.nouns import BenchmarkRun
from core.workspace import open_workspace, read_manifest
workspace = open_workspace(Path(sys.argv[1]))
run = read_manifest(workspace, Stage.BENCH, sys.argv[2], BenchmarkRun)
"""
_KILL = (
    _WRITE
    + """
import os, signal, shutil
from core.benchdb import projection
point = sys.argv[3]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if point == "before copying":
    writer._publish_copy = die
elif point == "before the rename":
    copy = shutil.copyfile
    shutil.copyfile = lambda a, b: (copy(a, b), die())
else:
    class Deadly(list):
        def __iter__(self):
            yield from list.__iter__(self)
            die()
    rows_of = projection.rows_of
    def deadly(*arguments):
        rows = rows_of(*arguments)
        rows[point.split()[1]] = Deadly(rows[point.split()[1]])
        return rows
    projection.rows_of = deadly
"""
)


def _child(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    if script == _WRITE:
        script += "writer.write(workspace, run, 30)\n"
    return subprocess.Popen([sys.executable, "-c", script, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def _killed(workspace: Workspace, run: str, point: str, *, rebuild: bool = False) -> bool:
    act = "writer.rebuild(workspace, 30)\n" if rebuild else "writer.write(workspace, run, 30)\n"
    command = [sys.executable, "-c", _KILL + act, str(workspace.root), run, point]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL


def test_a_full_disk_is_no_broken_database(workspace: Workspace) -> None:
    """The words are DuckDB's own on a full tmpfs, which a test may not mount."""
    with pytest.raises(DiskFull, match="no space left"), writer._broken_is_an_error(workspace.database):
        raise duckdb.FatalException(
            "FATAL Error: Failed to create checkpoint because of error: "
            'Could not write file ".edgekiln.duckdb.new": No space left on device'
        )
