"""How a stage's task shows itself in Prefect and which failures it tries again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import PrefectException

from core.contract import Artifact
from core.errors import EdgekilnError
from core.events import OnEvent, tee
from core.report.artifact import artifact_table
from core.report.render import render
from tasks.job import Job
from tasks.progress import ProgressRing

N = TypeVar("N", bound=Artifact)


def watched(name: str, job: Job, work: Callable[[OnEvent], N]) -> N:
    """Run a stage's verb, show its progress, and put what it gave beside the task as a markdown artifact."""
    ring = ProgressRing(f"{name}-progress")
    artifact = work(tee(job.on_event, ring))
    ring.show(100.0)
    try:
        create_markdown_artifact(render(artifact_table(artifact), "markdown"), key=name, description=artifact.artifact_id)
    except (httpx.HTTPError, PrefectException) as error:
        logging.getLogger("core").warning("the markdown artifact of %s did not reach Prefect: %s", name, error)
    return artifact


def retryable(_task: object, _run: object, state: Any) -> bool:
    """Tell Prefect whether another attempt can help: the error itself says so."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, EdgekilnError) and error.retryable
