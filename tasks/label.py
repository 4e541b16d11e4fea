"""The task teacher-label."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import Dataset, LabeledDataset
from tasks.job import Job
from tasks.watch import retryable, watched


@task(
    name="teacher-label",
    task_run_name="teacher-label",
    tags={"edgekiln"},
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=retryable,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def teacher_label(job: Job, dataset: Dataset) -> LabeledDataset:
    """Let the teacher answer the prompts."""
    from core.label.label import label

    return watched(
        "teacher-label", job, lambda on_event: label(dataset, job.profile.label, job.workspace, on_event, job.beside)
    )
