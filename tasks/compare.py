"""The task compare-with-current."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import GgufModel
from tasks.job import Job


@task(
    name="compare-with-current",
    task_run_name="compare-with-current",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def compare_with_current(job: Job, model: GgufModel) -> None:
    """Refuse a model that is worse than the one it would replace."""
    from core.compare.standing import refuse_worse

    refuse_worse(job.workspace, job.profile.name, model, job.profile.export, job.on_event)
