"""The ingest stage: a benchmark's results into the database, each once, however often and wherever it is killed."""

from __future__ import annotations

from pathlib import Path

from core.benchdb import projection, queries, writer
from core.benchdb.migrate import latest
from core.config import IngestConfig
from core.contract import Stage
from core.errors import DatabaseBroken
from core.events import Note, OnEvent, ignore
from core.files import canonical_json, write_atomic
from core.nouns import BenchmarkRun, IngestReceipt, refs
from core.stage import Facts, Order, produce
from core.workspace import Workspace

VERSION = 1


def ingest(run: BenchmarkRun, config: IngestConfig, workspace: Workspace, on_event: OnEvent = ignore) -> IngestReceipt:
    """Put a run's results into the database and publish the receipt.

    A receipt that is reused is believed only if the database really holds its results; otherwise they are put back.
    WorkspaceLocked when another program holds the database longer than `lock_timeout_s`; DatabaseNewer, DatabaseBroken.
    """
    order = Order(
        noun=IngestReceipt,
        stage=Stage.INGEST,
        version=VERSION,
        config=config,
        parents=refs(run),
        inputs=(run.artifact_id,),  # two occasions are two runs even if every figure were equal
        tools={"benchdb": f"migration {latest()}"},
    )
    worked = False

    def work(content: Path) -> Facts:
        nonlocal worked
        worked = True
        return _work(run, config, workspace, content)

    receipt = produce(order, workspace, on_event, work)
    if not worked and not _still_there(workspace, receipt):
        written = writer.write(workspace, run, config.lock_timeout_s)
        lacked = f"{written.inserted} results" if written.inserted else "its read copy"
        on_event(Note(stage=Stage.INGEST, text=f"the database lacked {lacked}, which the receipt promises: put back"))
    return receipt


def _work(run: BenchmarkRun, config: IngestConfig, workspace: Workspace, content: Path) -> Facts:
    written = writer.write(workspace, run, config.lock_timeout_s)
    ids = projection.result_ids(run)
    # counts of what was new stay out of the file: they depend on what happened before, and its bytes carry meaning
    receipt = {"migration": written.migration, "result_ids": list(ids)}
    write_atomic(content / "receipt.json", canonical_json(receipt) + b"\n")
    failed = sum(measurement.error is not None for measurement in run.measurements)
    return Facts(
        own={
            "migration": written.migration,
            "inserted": written.inserted,
            "already_there": written.already_there,
            "result_ids": ids,
        },
        metrics={"results": float(len(ids)), "failed_results": float(failed)},
    )


def _still_there(workspace: Workspace, receipt: IngestReceipt) -> bool:
    try:
        return queries.holds(workspace, receipt.result_ids)
    except DatabaseBroken:
        return False  # the writer publishes the read copy anew, and says so itself when its own file is broken
