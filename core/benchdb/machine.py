"""What the database says about the kept runs of `edgekiln env bench`: rows by table. No SQL, no connection."""

from __future__ import annotations

from collections.abc import Mapping

from core.benchdb.projection import Row, host_row
from core.env.machine_bench import Figure, MachineRun
from core.files import canonical_json, digest_of

TABLES = ("hosts", "machine_results")
"""In the order in which rows may be inserted."""


def rows_of(run: MachineRun) -> Mapping[str, list[Row]]:
    """Return a kept run's rows by table."""
    host = host_row(run.host)
    return {"hosts": [host], "machine_results": [_result(run, figure, host["host_id"]) for figure in run.figures]}


def _result(run: MachineRun, figure: Figure, host_id: str) -> Row:
    told = figure.model_dump(mode="json")
    return {
        "result_id": digest_of({"run_id": run.run_id, "fingerprint": run.host.fingerprint, "figure": told}),
        "run_id": run.run_id,
        "host_id": host_id,
        "fingerprint": run.host.fingerprint,
        **told,
        "raw": canonical_json({"tools": run.tools}).decode(),
        "measured_at": run.measured_at,
    }
