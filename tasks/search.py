"""The task settings-search."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import LabeledDataset, SearchReport
from tasks.job import Job
from tasks.watch import watched


@task(
    name="settings-search",
    task_run_name="settings-search",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def settings_search(job: Job, labeled: LabeledDataset) -> SearchReport:
    """Search the settings that the student learns best with."""
    from core.search.search import search

    asked, profile = job.profile.search, job.profile
    return watched(
        "settings-search",
        job,
        lambda on_event: search(labeled, asked, profile.train, job.workspace, on_event, beside=job.beside),
    )
