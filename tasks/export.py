"""The task gguf-export."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import Adapter, GgufModel
from tasks.job import Job
from tasks.watch import watched


@task(
    name="gguf-export",
    task_run_name="gguf-export",
    tags={"edgekiln"},
    cache_policy=NO_CACHE,
    persist_result=False,
)
def gguf_export(job: Job, adapter: Adapter) -> GgufModel:
    """Merge, convert and quantise."""
    from core.export.export import export

    return watched(
        "gguf-export", job, lambda on_event: export(adapter, job.profile.export, job.workspace, on_event, job.beside)
    )
