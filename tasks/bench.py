"""The task pi-benchmark."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from core.nouns import BenchmarkRun, GgufModel
from tasks.job import Job
from tasks.watch import retryable, watched


@task(
    name="pi-benchmark",
    task_run_name="pi-benchmark",
    tags={"edgekiln"},
    retries=2,
    retry_delay_seconds=[2, 10],
    retry_condition_fn=retryable,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def pi_benchmark(job: Job, model: GgufModel) -> BenchmarkRun:
    """Measure every quantisation on the device."""
    from core.bench.bench import bench

    return watched(
        "pi-benchmark", job, lambda on_event: bench(model, job.profile.bench, job.workspace, on_event, job.beside)
    )
