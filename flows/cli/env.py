"""`edgekiln env`: what this machine is, whether it can do the job, why not and what to do; models, fix, lock, compare, bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from flows.cli.session import Common, begin, drawn, named_path, tree, write_named

if TYPE_CHECKING:
    from core.env.document import EnvDocument
    from core.env.roles import Role
    from core.events import Event, OnEvent

app = App(name="env")
app.command("flows.cli.env_bench:bench", name="bench", help="Measure this machine and compare it with its own history")
app.command(
    "flows.cli.env_models:models", name="models", help="Rank the known students and teachers by whether they fit here"
)
app.command("flows.cli.env_repair:fix", name="fix", help="Say what would mend the installation; --apply does it")
app.command("flows.cli.env_repair:lock", name="lock", help="Write exact hashed requirements, or verify against them")
app.command("flows.cli.env_repair:compare", name="compare", help="Hold two machines' JSON reports side by side")
_DEFAULT_COMMON = Common()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Look:
    """What is judged, and how the answer is written."""

    profile: str = "demo"
    "A shipped profile, one of your own, or a YAML file"
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    "Change a field: --set env.min_ram_gb=8; may be repeated"
    role: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = ()
    "Judge this role instead of those the profile uses; may be repeated"
    no_cache: Annotated[bool, Parameter(negative=())] = False
    "Look anew although a report is younger than env.max_age_s"
    strict: Annotated[bool, Parameter(negative=())] = False
    "Warnings are exit status 5"
    csv: Annotated[bool, Parameter(negative=())] = False
    "One row for each finding"
    html: Annotated[bool, Parameter(negative=())] = False
    "A page that needs no network"
    output: Annotated[Path | None, Parameter(alias="-o", converter=named_path)] = None
    "Write the answer to this file"


_DEFAULT_LOOK = Look()


@app.default
def env(*, look: Look = _DEFAULT_LOOK, common: Common = _DEFAULT_COMMON) -> None:
    """Look at this machine, and at the board if the profile names one, and say what it can do."""
    from core import config
    from core.env.check import examine, refuse_blocked
    from core.env.document import document
    from core.sinks import hiding, secret_names
    from core.workspace import locked

    kind = _kind(look, common)
    profile = config.load(look.profile, look.set)
    workspace = tree(common, ("env",) if look.no_cache else ())
    beside = config.find_profile(look.profile).parent
    sink = hiding(secret_names(profile), _quiet(begin(common), common.verbose))
    with locked(workspace, "edgekiln env"):
        report = examine(profile, workspace, beside, _roles(look.role), sink)
    told = document(report, workspace)
    _write(_rendered(told, kind), look.output)
    refuse_blocked(report)
    if look.strict:
        _refuse_warnings(told)


def _quiet(sink: OnEvent, verbose: bool) -> OnEvent:
    """Return a sink without the findings: the answer lists them."""
    from core.events import Found

    def told(event: Event) -> None:
        if verbose or not isinstance(event, Found):
            sink(event)

    return told


def _kind(look: Look, common: Common) -> Literal["text", "json", "csv", "html"]:
    from core.errors import UsageError

    asked: list[Literal["json", "csv", "html"]] = []
    asked += ["json"] if common.json else []
    asked += ["csv"] if look.csv else []
    asked += ["html"] if look.html else []
    if len(asked) > 1:
        names = " and ".join(f"--{kind}" for kind in asked)
        raise UsageError(f"{names} cannot be used together", remedy="Name one; run again for the other.")
    return asked[0] if asked else "text"


def _roles(names: tuple[str, ...]) -> tuple[Role, ...]:
    from core.env.roles import Role, in_order
    from core.errors import UsageError

    known = [role.value for role in Role]
    if wrong := [name for name in names if name not in known]:
        raise UsageError(f"--role {wrong[0]} is no role", remedy=f"Name one of {', '.join(known)}.")
    return in_order(names)


def _rendered(told: EnvDocument, kind: Literal["text", "json", "csv", "html"]) -> str:
    from core.report import doctor
    from core.report.page import page_html
    from core.report.render import render

    if kind == "json":
        return told.model_dump_json(indent=1)
    if kind == "csv":
        return render(doctor.rows_table(told), "csv")
    if kind == "html":
        return page_html(doctor.doctor_page(told))
    parts = (doctor.facts_table(told), doctor.findings_table(told), doctor.roles_table(told))
    return "\n".join(drawn(part) for part in parts if part.rows)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        print(text.rstrip("\n"))
    else:
        write_named(output, text)


def _refuse_warnings(told: EnvDocument) -> None:
    from core.contract import Severity
    from core.errors import GateRefused

    warnings = [finding for finding in told.findings if finding.severity is Severity.WARNING]
    if warnings:
        first = warnings[0]
        raise GateRefused(
            f"{len(warnings)} warnings > 0 under --strict, the first: {first.code} {first.where}: {first.evidence}",
            remedy=first.remedy,
        )


@app.command
def schema(*, output: Annotated[Path | None, Parameter(alias="-o", converter=named_path)] = None) -> None:
    """Print the JSON Schema of `edgekiln env --json`, or write it to a file.

    Parameters
    ----------
    output
        File to write
    """
    import json

    from core.env.document import json_schema

    _write(json.dumps(json_schema(), indent=1, ensure_ascii=False), output)
