from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.benchdb import queries, writer
from core.benchdb.migrate import latest
from core.config import IngestConfig
from core.contract import Stage
from core.events import Event, Note, StageReused
from core.ingest.ingest import ingest
from core.workspace import Workspace, load
from tests.core.published_chain import benchmark, chain

ROOT = Path(__file__).parents[3]
CONFIG = IngestConfig(lock_timeout_s=10)


def test_the_receipt_names_every_result_and_the_migration(workspace: Workspace) -> None:
    _, run = chain(workspace)
    receipt = ingest(run, CONFIG, workspace)
    folder = workspace.folder(Stage.INGEST, receipt.artifact_id)
    assert (receipt.inserted, receipt.already_there, receipt.migration) == (4, 0, latest())
    assert json.loads((folder / "receipt.json").read_bytes()) == {
        "migration": latest(),
        "result_ids": list(receipt.result_ids),
    }
    assert sorted(receipt.result_ids) == sorted(result.result_id for result in queries.results(workspace))
    assert receipt.metrics == {"results": 4.0, "failed_results": 1.0}


def test_the_second_ingest_reuses_the_receipt_and_inserts_nothing(workspace: Workspace, events: list[Event]) -> None:
    _, run = chain(workspace)
    first = ingest(run, CONFIG, workspace)
    again = ingest(run, CONFIG, workspace, events.append)
    assert again == first
    assert [type(event) for event in events] == [StageReused]
    assert len(queries.results(workspace)) == 4


def test_a_forced_ingest_inserts_nothing_and_its_receipt_has_the_same_content(workspace: Workspace) -> None:
    _, run = chain(workspace)
    first = ingest(run, CONFIG, workspace)
    forced = ingest(run, CONFIG, Workspace(workspace.root, frozenset({Stage.INGEST})))
    assert (forced.inserted, forced.already_there) == (0, 4)
    assert (forced.artifact_id, forced.content_digest) == (first.artifact_id, first.content_digest)


@pytest.mark.parametrize("lost", ["edgekiln.duckdb", "edgekiln.read.duckdb"])
def test_a_receipt_is_not_believed_when_a_database_file_is_gone(workspace: Workspace, lost: str) -> None:
    gguf, run = chain(workspace)
    other = benchmark(workspace, gguf, occasion=1)
    ingest(other, CONFIG, workspace)
    ingest(run, CONFIG, workspace)
    (workspace.root / lost).unlink()
    events: list[Event] = []
    ingest(run, CONFIG, workspace, events.append)
    assert len(queries.results(workspace)) == 8
    assert workspace.database.exists()
    assert [event for event in events if isinstance(event, Note)]


def test_a_receipt_is_not_believed_when_the_read_copy_is_broken(workspace: Workspace) -> None:
    _, run = chain(workspace)
    ingest(run, CONFIG, workspace)
    writer.read_copy(workspace).write_bytes(b"x" * 9000)
    ingest(run, CONFIG, workspace)
    assert len(queries.results(workspace)) == 4


@pytest.mark.parametrize("point", ["publish", "_publish_copy"])
def test_a_killed_ingest_is_finished_by_the_same_command(workspace: Workspace, point: str) -> None:
    _, run = chain(workspace)
    script = f"""
import os, signal, sys
from pathlib import Path
from core import stage
from core.benchdb import writer
from core.config import IngestConfig
from core.contract import Stage
from core.benchdb.migrate import latest
from core.ingest.ingest import ingest
from core.nouns import BenchmarkRun
from core.workspace import open_workspace, read_manifest
workspace = open_workspace(Path(sys.argv[1]))
run = read_manifest(workspace, Stage.BENCH, sys.argv[2], BenchmarkRun)
owner = stage if {point!r} == "publish" else writer
setattr(owner, {point!r}, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
ingest(run, IngestConfig(), workspace)
"""
    command = [sys.executable, "-c", script, str(workspace.root), run.artifact_id]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert not list((workspace.root / "artifacts").glob("ingest/*"))
    receipt = ingest(run, CONFIG, workspace)
    assert (receipt.inserted, receipt.already_there) == (0, 4)
    assert load(workspace, Stage.INGEST, receipt.artifact_id, type(receipt)) == receipt
    assert len(queries.results(workspace)) == 4
