"""The stage commands without verbs of their own: each makes or reuses what comes before it, without Prefect."""

from __future__ import annotations

from cyclopts import App

from flows.cli.session import Choice, Common, answer, begin, drawn, tree

_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()

bench = App(name="bench")
ingest = App(name="ingest")


def run_stage(name: str, choice: Choice, common: Common, *, anew: bool = False, extra: tuple[str, ...] = ()) -> None:
    """Run the chain up to a stage and print what it gave; a failed verdict is told and is the exit status."""
    from datetime import UTC, datetime

    from core import config
    from core.contract import Stage
    from core.events import tee
    from core.promote import refuse_failed
    from core.remote.home import at_home
    from core.report.artifact import artifact_table
    from core.sinks import hiding, log, secret_names
    from core.workspace import locked
    from flows.chain import make
    from tasks.job import Job

    terminal = begin(common)
    profile = config.load(choice.profile, (*extra, *choice.set))
    sink = hiding(secret_names(profile), tee(log, terminal))
    workspace = tree(common, (*choice.force, name) if anew else choice.force)
    beside = config.find_profile(choice.profile).parent
    command = f"edgekiln {name}"
    with locked(workspace, command), at_home(profile.remote, workspace, command, sink) as tree_and_home:
        run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{name}"
        artifact = make(Stage(name), Job(run_id, tree_and_home, profile, beside, sink))
    answer(common, artifact.model_dump(mode="json"), drawn(artifact_table(artifact)))
    refuse_failed(artifact)


@bench.default
def _bench(*, choice: Choice = _DEFAULT_CHOICE, common: Common = _DEFAULT_COMMON) -> None:
    """Measure the quantisations on the device; always measures anew."""
    run_stage("bench", choice, common, anew=True)


@ingest.default
def _ingest(*, choice: Choice = _DEFAULT_CHOICE, common: Common = _DEFAULT_COMMON) -> None:
    """Write the newest measurements into the database."""
    run_stage("ingest", choice, common)
