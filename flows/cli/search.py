"""`edgekiln search`: the flow `search` in this process, and the table of its trials."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

from flows.cli.run import through_prefect
from flows.cli.session import Choice, Common, answer, begin, drawn, tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from core.events import OnEvent
    from core.workspace import Workspace

_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()


def search(
    *,
    trials: int | None = None,
    processes: int | None = None,
    subset_rows: int | None = None,
    budget_s: float | None = None,
    dataset: str | None = None,
    student: str | None = None,
    join: bool = False,
    choice: Choice = _DEFAULT_CHOICE,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Search the training settings that the student learns best with.

    What is searched is the profile's section `search`. Trials that ended are kept: the same command goes on after any kind
    of stop, and with more --trials. The winner becomes a file for --set.

    Parameters
    ----------
    trials
        Trials to make, those of earlier searches of the same kind counted
    processes
        Trials at the same time
    subset_rows
        Training rows that each trial learns from
    budget_s
        Seconds all trials may take together
    dataset
        A JSONL file with prompts, or builtin:python-docs
    student
        The model that learns
    join
        Take trials of the search that runs in the workspace now, --processes at a time (1); its settings count, not these
    """
    sink = begin(common)
    named = {
        "search.trials": trials,
        "search.subset_rows": subset_rows,
        "search.budget_s": budget_s,
        "data.sources": [dataset] if dataset else None,
        "train.student": student,
    }
    overrides = (*choice.set, *_changes(named))
    if join:
        _join(common, 1 if processes is None else processes, sink, overrides)
        return
    overrides = (*overrides, *_changes({"search.processes": processes}))
    _check(choice, overrides)
    workspace = tree(common, choice.force)
    _close(common, choice, workspace, through_prefect("search", choice, overrides, workspace, sink, verbose=common.verbose))


def _changes(named: Mapping[str, object]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in named.items() if value is not None]


def _check(choice: Choice, overrides: tuple[str, ...]) -> None:
    """Tell a mistake before Prefect starts."""
    from core import catalogue, config
    from core.search.space import check

    profile = config.load(choice.profile, overrides)
    catalogue.check_cards(profile, config.find_profile(choice.profile).parent)
    check(profile.search.space, profile.train)


def _join(common: Common, processes: int, sink: OnEvent, others: tuple[str, ...]) -> None:
    from core.errors import UsageError
    from core.search.joining import join, under_way

    if others:
        raise UsageError(
            f"--join takes the settings of the search that runs, {', '.join(others)} cannot be changed",
            remedy="Leave them out, or stop that search and start it with them.",
        )
    workspace = tree(common)
    study = under_way(workspace).study
    ended = join(workspace, processes, sink)
    told = (
        f"{ended} trials ended here. The search that was joined publishes them; if it was stopped, start its command again."
    )
    answer(common, {"study": study, "ended": ended}, told)


def _close(common: Common, choice: Choice, workspace: Workspace, run_id: str) -> None:
    """Print the trials, where the search lies, and the command that takes its winner."""
    from core.contract import Stage
    from core.nouns import SearchReport
    from core.report.render import as_document
    from core.report.search import PAGE, read_trials, trials_table
    from core.runs import read_run
    from core.search.winner import WINNER
    from core.workspace import load

    found = load(workspace, Stage.SEARCH, read_run(workspace, run_id).artifacts[Stage.SEARCH], SearchReport)
    folder = workspace.folder(Stage.SEARCH, found.artifact_id)
    title = f"search {found.artifact_id}: trial {found.best_trial} is the best, held-out loss {found.held_out_loss:.4f}"
    table = trials_table(read_trials(folder), f"{title}, before training {found.base_held_out_loss:.4f}")
    take = [
        "edgekiln",
        "run",
        "--profile",
        choice.profile,
        "--workspace",
        str(workspace.root),
        "--set",
        str(folder / WINNER),
    ]
    pointers = (f"  page: {folder / PAGE}", f"  next: {shlex.join(take)}")
    document = {"search": found.model_dump(mode="json"), "trials": as_document(table)}
    answer(common, document, drawn(table) + "\n".join(pointers))
