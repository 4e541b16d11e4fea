"""The task db-ingest."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import BenchmarkRun, IngestReceipt
from tasks.job import Job
from tasks.watch import watched


@task(
    name="db-ingest",
    task_run_name="db-ingest",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def db_ingest(job: Job, run: BenchmarkRun) -> IngestReceipt:
    """Write the results into the database."""
    from core.ingest.ingest import ingest

    return watched("db-ingest", job, lambda on_event: ingest(run, job.profile.ingest, job.workspace, on_event))
