"""kill -9 of the run, then the same command: it finishes, nothing is half there, the final table is the same."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import psutil
import pytest

from core.promote import current
from tests.e2e.conftest import Finished
from tests.e2e.whole_job import KILLS, WholeJob, digests, table_without_speeds, verify_everything

pytestmark = [pytest.mark.model, pytest.mark.prefect]


def killed_and_finished(job: WholeJob, finished: Finished, stages: list[str]) -> None:
    for stage in stages:
        assert job.kill_at(KILLS[stage]) == -signal.SIGKILL
        verify_everything(job.workspace)
    document = job.finish()
    verify_everything(job.workspace)
    assert table_without_speeds(document) == table_without_speeds(finished.document)
    assert digests(job, document) == digests(finished.job, finished.document)
    pointer = current(job.workspace, "small")
    assert pointer is not None
    assert pointer.artifact_id == document["run"]["artifacts"]["export"]
    assert not job.workspace.journal.exists()


def untrained(finished: Finished, folder: Path) -> WholeJob:
    """Return the finished job without its adapter and its pointer; what comes after is reused if the same adapter comes again."""
    job = finished.copy(folder / "workspace")
    shutil.rmtree(job.root / "artifacts" / "train")
    (job.root / "current" / "small.json").unlink()
    return job


def test_a_run_killed_while_it_ingests_and_while_it_promotes_ends_as_if_nothing_had_been(
    finished: Finished, tmp_path: Path
) -> None:
    job = finished.copy(tmp_path / "workspace")
    shutil.rmtree(job.root / "artifacts" / "ingest")
    (job.root / "current" / "small.json").unlink()
    killed_and_finished(job, finished, ["ingest", "promote"])


@pytest.mark.full
def test_a_run_killed_in_training_ends_with_the_same_adapter(finished: Finished, tmp_path: Path) -> None:
    job = untrained(finished, tmp_path)
    killed_and_finished(job, finished, ["train", "promote"])
    assert {"label", "export"} <= set(job.finish()["run"]["reused"])


@pytest.mark.full
def test_a_run_killed_in_every_stage_that_takes_time_ends_as_if_nothing_had_been(
    finished: Finished, tmp_path: Path
) -> None:
    job = WholeJob(finished.job.profile, tmp_path / "workspace", finished.job.environment)
    killed_and_finished(job, finished, list(KILLS))


@pytest.mark.full
def test_ctrl_c_in_a_terminal_ends_the_run_soon(finished: Finished, tmp_path: Path) -> None:
    job = finished.copy(tmp_path / "workspace")
    for made in ("artifacts/label", "ledger"):
        shutil.rmtree(job.root / made)
    assert job.kill_at(KILLS["label"], signal.SIGINT) == 130
    assert not [process for process in psutil.process_iter(["environ"]) if _belongs_to(process, job)]


def _belongs_to(process: psutil.Process, job: WholeJob) -> bool:
    return (process.info["environ"] or {}).get("EDGEKILN_TEST_JOB") == str(job.root)


@pytest.mark.full
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_asked_to_stop_does_so_and_goes_on_later(
    finished: Finished, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    job = untrained(finished, tmp_path)
    assert job.kill_at(KILLS["train"], number) == status
    killed_and_finished(job, finished, [])
