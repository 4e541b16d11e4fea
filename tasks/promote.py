"""The tasks of a promotion, run inside one transaction: promote, verify, announce. No retries: one would roll it all back."""

from __future__ import annotations

import sys
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.transactions import Transaction, get_transaction

from core import promote as promotion
from core.nouns import GgufModel
from core.workspace import open_workspace
from tasks.job import Job, listener


@task(name="promote", task_run_name="promote", tags={"edgekiln"}, cache_policy=NO_CACHE, persist_result=False)
def promote(job: Job, model: GgufModel) -> None:
    """Put the profile's pointer on the model."""
    if transaction := get_transaction():
        transaction.set("promoting", {"workspace": str(job.workspace.root), "profile": job.profile.name})
    promotion.promote(job.workspace, job.profile.name, model, job.on_event)


@promote.on_rollback
def put_back(transaction: Transaction) -> None:
    """Put the pointer back, unless the machine is being taken away: then the journal decides at the next start."""
    if isinstance(failure := sys.exc_info()[1], TerminationSignal):
        return
    where = transaction.get("promoting")
    workspace = open_workspace(Path(where["workspace"]))
    promotion.rollback(workspace, where["profile"], str(failure).splitlines()[0], listener())


@task(name="verify", task_run_name="verify", tags={"edgekiln"}, cache_policy=NO_CACHE, persist_result=False)
def verify(job: Job) -> str:
    """Load the promoted model through the pointer and let it answer."""
    return promotion.verify_pointer(job.workspace, job.profile.name, job.on_event)


@task(name="announce", task_run_name="announce", tags={"edgekiln"}, cache_policy=NO_CACHE, persist_result=False)
def announce(job: Job, model: GgufModel) -> None:
    """Tell Prefect's event stream which model is current."""
    resource = {"prefect.resource.id": f"edgekiln.profile.{job.profile.name}"}
    emit_event("edgekiln.model.promoted", resource=resource, payload={"artifact_id": model.artifact_id})
