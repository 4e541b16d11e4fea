"""The task qlora-train."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import Adapter, LabeledDataset
from tasks.job import Job
from tasks.watch import watched


@task(
    name="qlora-train",
    task_run_name="qlora-train",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def qlora_train(job: Job, labeled: LabeledDataset) -> Adapter:
    """Train the student's adapter."""
    from core.train.train import train

    return watched(
        "qlora-train", job, lambda on_event: train(labeled, job.profile.train, job.workspace, on_event, job.beside)
    )
