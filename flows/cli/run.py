"""`edgekiln run`: the flow in this process, on the Prefect server that is set or a passing one."""

from __future__ import annotations

import atexit
import gc
import json
import os
import shlex
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from flows.cli.session import Choice, Common, answer, begin, drawn, tree

if TYPE_CHECKING:
    from core.events import OnEvent
    from core.runs import RunRecord
    from core.workspace import Workspace

_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()
# Prefect keeps every line for its own pages; on the terminal edgekiln tells
_PREFECT = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def run(
    *,
    dataset: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
    device: str | None = None,
    choice: Choice = _DEFAULT_CHOICE,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Run all seven stages and make the model current when its gates say yes.

    Finished work is verified and reused; the same command goes on after any kind of stop.

    Parameters
    ----------
    dataset
        A JSONL file with prompts, or builtin:python-docs
    student
        The model that learns
    teacher
        The model that answers the prompts
    device
        Where the quantisations are measured
    """
    from core import catalogue, config

    sink = begin(common)
    named = {
        "data.sources": [dataset] if dataset else None,
        "train.student": student,
        "label.teacher": teacher,
        "bench.device": device,
    }
    changes = [f"{key}={json.dumps(value)}" for key, value in named.items() if value]
    overrides = (*changes, *choice.set)
    # a mistake in the profile or its cards is told before Prefect starts
    catalogue.check_cards(config.load(choice.profile, overrides), config.find_profile(choice.profile).parent)
    workspace = tree(common, choice.force)
    run_id = through_prefect("distill", choice, overrides, workspace, sink, verbose=common.verbose)
    _close(common, choice, workspace, run_id)


def through_prefect(
    name: str, choice: Choice, overrides: tuple[str, ...], workspace: Workspace, sink: OnEvent, *, verbose: bool
) -> str:
    """Run a flow by its name, which its module has too, and return the id of the run."""
    from importlib import import_module

    from core.config import profile_names
    from core.workspace import locked

    with locked(workspace, f"edgekiln, the flow {name}"):
        pass  # a workspace in use is told before Prefect starts; the flow takes the lock again
    for variable, value in _PREFECT.items():
        os.environ.setdefault(variable, value if not (verbose and variable.endswith("LEVEL")) else "WARNING")
    held = ExitStack()
    # before Prefect is imported, so that it runs after Prefect's own last words at the end of this process
    atexit.register(held.close)
    from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    if url := PREFECT_API_URL.value():
        _reach(url)
    else:
        _bring_up(name, held, sink)
    from tasks.job import listening

    flow = getattr(import_module(f"flows.{name}"), name)
    gc.freeze()  # what was imported stays, and the collections at the end of this process need not walk it

    shipped = choice.profile in profile_names()
    # the heartbeat's thread costs a second at the end, and nobody watches a run started by hand
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), listening(sink):
        run_id: str = flow(
            profile=choice.profile if shipped else "demo",
            profile_file=None if shipped else choice.profile,
            overrides=overrides,
            workspace=str(workspace.root),
            force=tuple(choice.force),
        )
    return run_id


def _bring_up(name: str, held: ExitStack, sink: OnEvent) -> None:
    """Start a server for this process and point Prefect to it; the flow is imported while it starts."""
    from importlib import import_module

    from prefect.context import refresh_global_settings_context

    from core.events import Note
    from flows.cli.passing_server import passing_server, wait_for

    sink(Note(stage=None, text="starting a Prefect server for this run; PREFECT_API_URL takes one that is running"))
    url = held.enter_context(passing_server())
    os.environ["PREFECT_API_URL"] = os.environ["EDGEKILN_PASSING_SERVER"] = url
    refresh_global_settings_context()
    import_module(f"flows.{name}")
    wait_for(url)


def _reach(url: str) -> None:
    from core.errors import ServiceError

    try:
        urlopen(f"{url.rstrip('/')}/health", timeout=10).close()  # noqa: S310 - the user's own setting
    except (URLError, OSError, ValueError) as error:
        raise ServiceError(
            f"the Prefect server that PREFECT_API_URL names ({_place(url)}) does not answer: {_why(error)}",
            remedy="Start it with `prefect server start`, or unset PREFECT_API_URL.",
        ) from error


def _place(url: str) -> str:
    """Return a URL's host and port, without the password it may hold."""
    return urlsplit(url).netloc.rpartition("@")[2] or "no host"


def _why(error: Exception) -> str:
    # a ValueError's text repeats the URL, and with it the password
    return type(error).__name__ if isinstance(error, ValueError) else str(error)


def _close(common: Common, choice: Choice, workspace: Workspace, run_id: str) -> None:
    """Print the closing table, where everything lies, and what to try next."""
    from core.contract import Stage
    from core.nouns import BenchmarkRun, GgufModel
    from core.report.closing import closing_table
    from core.report.render import as_document
    from core.runs import read_run
    from core.workspace import read_manifest

    record = read_run(workspace, run_id)
    gguf = read_manifest(workspace, Stage.EXPORT, record.artifacts[Stage.EXPORT], GgufModel)
    measured = read_manifest(workspace, Stage.BENCH, record.artifacts[Stage.BENCH], BenchmarkRun)
    table = closing_table(workspace, gguf, measured)
    document = {"run": record.model_dump(mode="json"), "result": as_document(table)}
    answer(common, document, drawn(table) + "\n".join(_pointers(choice, workspace, record)))


def _pointers(choice: Choice, workspace: Workspace, record: RunRecord) -> list[str]:
    from core.contract import Stage

    trace = ["edgekiln", "trace", record.artifacts[Stage.EXPORT], "--workspace", str(workspace.root)]
    changed = ["--profile", choice.profile, "--workspace", str(workspace.root), "--set", "train.lora.r=32"]
    return [
        f"  run page:  {workspace.run_folder(record.run_id) / 'index.html'}",
        f"  workspace: {workspace.root}",
        f"  database:  {workspace.database}",
        f"  next:      {shlex.join(trace)}",
        f"             {shlex.join(['edgekiln', 'run', *changed])}",
    ]
