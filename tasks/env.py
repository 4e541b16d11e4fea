"""The task env-check."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import EnvReport
from tasks.job import Job
from tasks.watch import watched


@task(
    name="env-check",
    task_run_name="env-check",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def env_check(job: Job) -> EnvReport:
    """Check that this machine can do the job."""
    from core.env.check import check

    return watched("env-check", job, lambda on_event: check(job.profile, job.workspace, job.beside, on_event))
