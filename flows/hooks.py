"""What Prefect calls when a run's process died. Arguments are handed over by keyword, so their names are fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from core import config
from core.alerts.send import alert
from core.events import RunFailed
from core.runs import RunStatus, runs
from core.sinks import log
from core.workspace import open_workspace

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State


def tell_of_crash(flow: Flow[Any, Any], flow_run: FlowRun, state: State) -> None:  # noqa: ARG001 - Prefect's names
    """Send the alert that a killed run could not send; a run that closed its own record has told already."""
    given = flow_run.parameters
    workspace = open_workspace(config.workspace_root(given.get("workspace")))
    mine = [run for run in runs(workspace) if run.run_id.endswith(str(flow_run.id)[:8])]
    if not mine or mine[0].status is not RunStatus.RUNNING:
        return
    profile = config.Profile.model_validate(mine[0].config)
    error = f"[crashed] {state.message or 'the process of the run died'}\nFix: start it again; it goes on where it stopped."
    told = RunFailed(run_id=mine[0].run_id, profile=profile.name, code="crashed", error=error)
    alert(told, profile.alerts, log)
