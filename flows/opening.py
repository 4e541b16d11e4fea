"""Opens a job: configuration, workspace, lock, what a killed run left, the run's record, and core's log lines for Prefect."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from core import catalogue, config
from core.contract import onward
from core.events import tee
from core.promote import replay_journal
from core.remote.home import at_home
from core.running import Recorded
from core.sinks import log
from core.workspace import locked, open_workspace
from tasks.job import Job, listener, listening


@contextmanager
def opened(profile: str, overrides: Mapping[str, Any], workspace: str | None, force: tuple[str, ...]) -> Iterator[Job]:
    """Yield the job; however the block ends is recorded, told, and raised on."""
    loaded = config.load(profile, overrides)
    root = config.workspace_root(workspace)
    tree = open_workspace(root, onward(force))
    beside = config.find_profile(profile).parent
    catalogue.check_cards(loaded, beside)
    verb = "search" if flow_run.flow_name == "search" else "run"
    command = f"edgekiln {verb} --profile {profile}"
    with logged(), locked(tree, command):
        replay_journal(tree, tee(log, listener()))
        run_id = new_run_id()
        with (
            Recorded(tree, loaded, run_id, listener(), profile) as on_event,
            at_home(loaded.remote, tree, command, on_event) as home,
            listening(on_event),
        ):
            yield Job(run_id=run_id, workspace=home, profile=loaded, beside=beside, on_event=on_event)


def run_name() -> str:
    """Return what Prefect calls a run: the flow and the profile, the user's own by its file."""
    given = flow_run.parameters
    return f"{flow_run.flow_name}-{Path(given.get('profile_file') or given['profile']).stem}"


def new_run_id() -> str:
    """Return a name that sorts by time and ends with the beginning of Prefect's id of the run."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{str(flow_run.id)[:8]}"


@contextmanager
def logged() -> Iterator[None]:
    """Let Prefect keep core's log lines with their level; its own setting for that takes only warnings."""
    logger, handler = logging.getLogger("core"), APILogHandler()
    handler.setLevel(logging.INFO)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
