"""`edgekiln label`: let the teacher answer the prompts; serve a teacher where there is no endpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from flows.cli.session import Choice, Common, answer, begin
from flows.cli.stages import run_stage

if TYPE_CHECKING:
    from core.label.serve import Served

_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()

app = App(name="label")
app.command("flows.cli.label_ledger:status", name="status", help="Show how the newest labelling stands, and when it ends")
app.command("flows.cli.label_ledger:failed", name="failed", help="List what got no answer, and why")
app.command("flows.cli.label_ledger:retry", name="retry", help="Let unusable answers be asked for again")
app.command("flows.cli.label_ledger:export", name="export", help="Write all requests and answers to a file")


@app.default
def _label(*, choice: Choice = _DEFAULT_CHOICE, common: Common = _DEFAULT_COMMON) -> None:
    """Let the teacher answer the prompts; answers that are there are not asked for again."""
    run_stage("label", choice, common)


@app.command
def serve(
    *,
    profile: str = "demo",
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),  # noqa: A002 - it is --set everywhere
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))] = 8080,
    slots: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=256))] = 4,
    context: Annotated[int, Parameter(validator=validators.Number(gte=256, lte=1 << 20))] = 4096,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Serve the profile's teacher with llama-server, as an OpenAI-compatible endpoint, until Ctrl-C.

    The key is that of the variable label.api_key_env names; without one anybody who reaches the port may ask.

    Parameters
    ----------
    profile
        A shipped profile, one of your own, or a YAML file
    set
        Change a field: --set label.teacher=mine; may be repeated
    host
        Address to listen on; 0.0.0.0 is every one
    port
        Port to listen on; 0 is any that is free
    slots
        Requests answered at once
    context
        Tokens of each: prompt and answer
    """
    from core import config
    from core.label.serve import ServerPlan
    from core.label.serve import serve as serve_teacher

    asked = config.load(profile, set)
    plan = ServerPlan(host=host, port=port, slots=slots, context=context)

    def told(served: Served) -> None:
        answer(common, served.model_dump(mode="json"), _text(served, profile), exact=True)
        sys.stdout.flush()  # whoever waits for it may read a pipe

    serve_teacher(asked.label, plan, begin(common), told, config.find_profile(profile).parent)


def _text(served: Served, profile: str) -> str:
    """Return what a person needs to use a server."""
    import shlex

    words = ["edgekiln", "label", "--profile", profile]
    for setting in served.settings:
        words += ["--set", setting]
    return (
        f"{served.model} is ready at {served.base_url}: {served.slots} requests at once, {served.context} tokens each.\n"
        f"Label with it:  {shlex.join(words)}\n"
        f"Its log is {served.log}. Ctrl-C ends it."
    )
