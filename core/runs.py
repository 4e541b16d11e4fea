"""The record of a run: which profile, when, what came of it. One `run.json` and one `events.jsonl` a run."""

from __future__ import annotations

import fcntl
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, ValidationError

from core.contract import ArtifactId, Contract, Stage
from core.errors import ArtifactMissing
from core.files import write_atomic
from core.workspace import Workspace


class RunStatus(StrEnum):
    """How a run stands. A run that was killed stays `running` until the next one finds it."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class RunRecord(Contract):
    """A run; `error` is its two lines, `artifacts` what each finished stage gave, `started_with` the profile as it was named."""

    run_id: str
    profile: str
    started_with: str | None = None
    config: dict[str, Any]
    started_at: AwareDatetime
    finished_at: AwareDatetime | None = None
    status: RunStatus
    error: str | None = None
    artifacts: dict[Stage, ArtifactId] = {}
    reused: tuple[Stage, ...] = ()


def write_run(workspace: Workspace, record: RunRecord) -> None:
    """Write a run's record."""
    write_atomic(workspace.run_folder(record.run_id) / "run.json", record.model_dump_json(indent=1).encode())


def read_run(workspace: Workspace, run_id: str) -> RunRecord:
    """Read a run's record by its id; ArtifactMissing when there is none."""
    path = workspace.run_folder(run_id) / "run.json"
    if not path.is_file():
        raise ArtifactMissing(f"no run {run_id} in {workspace.root}", remedy="List the runs with `edgekiln runs`.")
    return RunRecord.model_validate_json(path.read_bytes())


def runs(workspace: Workspace) -> list[RunRecord]:
    """Return all readable runs, newest first."""
    found = []
    for path in sorted((workspace.root / "runs").glob("*/run.json")):
        try:
            found.append(RunRecord.model_validate_json(path.read_bytes()))
        except ValidationError:
            continue
    return sorted(found, key=lambda run: run.started_at, reverse=True)


def as_killed(record: RunRecord) -> RunRecord:
    """Return a record that still says `running` as that of a run which was killed; any other as it is."""
    if record.status is not RunStatus.RUNNING:
        return record
    return record.model_copy(update={"status": RunStatus.INTERRUPTED, "error": "the run was killed"})


def standing(workspace: Workspace) -> list[RunRecord]:
    """Return all readable runs as they stand, newest first; what says `running` while nobody holds the lock was killed.

    Nothing is written: the next run writes it down.
    """
    found = runs(workspace)
    return found if is_held(workspace) else [as_killed(record) for record in found]


def is_held(workspace: Workspace) -> bool:
    """Say whether a process works in the workspace now."""
    try:
        with (workspace.root / "lock").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as soon as the file is closed
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
