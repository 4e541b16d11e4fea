"""A search told to others, and joined from another terminal: trials are taken beside its own, the artifact stays its work."""

from __future__ import annotations

import os
from pathlib import Path

from core.contract import Stage
from core.errors import UsageError
from core.events import Note, OnEvent, ignore
from core.files import write_atomic
from core.search.processes import take_trials
from core.search.request import TrialsRequest
from core.search.section import MOST_PROCESSES
from core.search.storage import Presence
from core.workspace import Workspace

_REQUEST = "request.json"


def tell(request: TrialsRequest) -> None:
    """Leave what a search asks of its trials in its study's folder, for those who join it."""
    write_atomic(Path(request.study) / _REQUEST, request.model_dump_json().encode())


def under_way(workspace: Workspace) -> TrialsRequest:
    """Return what the search that runs in a workspace asks of its trials; UsageError when none is at its trials."""
    for told in sorted((workspace.root / "search").glob(f"*/{_REQUEST}")):
        if Presence(told.parent).living():
            return TrialsRequest.model_validate_json(told.read_bytes())
    raise UsageError(
        f"no search is at its trials in {workspace.root}",
        remedy="Start one there, edgekiln search; it can be joined when its range test is over.",
    )


def join(workspace: Workspace, processes: int, on_event: OnEvent = ignore) -> int:
    """Take trials of the search that runs in a workspace until there are enough; return how many ended here.

    The search may end before, or be killed: what ended is kept in its study either way. UsageError for no process, or too many.
    """
    if not 1 <= processes <= MOST_PROCESSES:
        raise UsageError(
            f"{processes} processes, 1 to {MOST_PROCESSES} can join", remedy="Give --processes 1, or some more."
        )
    request = under_way(workspace)
    text = f"joining the search in {request.study}, {processes} at a time; {request.search.trials} trials in all"
    on_event(Note(stage=Stage.SEARCH, text=text))
    return take_trials(request, [f"{os.getpid()}-{number}" for number in range(processes)], on_event)
