"""The task data-validate."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import Dataset
from tasks.job import Job
from tasks.watch import watched


@task(
    name="data-validate",
    task_run_name="data-validate",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def data_validate(job: Job) -> Dataset:
    """Read and validate the prompts."""
    from core.data.student import student_of
    from core.data.validate import validate

    student = student_of(job.profile, job.beside)
    return watched("data-validate", job, lambda on_event: validate(job.profile.data, job.workspace, on_event, student))
