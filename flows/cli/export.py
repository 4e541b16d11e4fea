"""`edgekiln export`: make the GGUF files; show what each is worth; publish them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from flows.cli.session import Choice, Common, answer, begin, drawn, named_path, shelf, write_named
from flows.cli.stages import run_stage

if TYPE_CHECKING:
    from core.errors import ToolMissing
    from core.nouns import GgufModel
    from core.workspace import Workspace

_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()

app = App(name="export")


@app.default
def _export(
    *,
    to: Literal["gguf", "onnx"] = "gguf",
    choice: Choice = _DEFAULT_CHOICE,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Merge the adapter, convert to GGUF and quantise.

    Parameters
    ----------
    to
        The format; onnx is refused with its reason
    """
    if to == "onnx":
        raise _no_onnx()
    run_stage("export", choice, common)


def _no_onnx() -> ToolMissing:
    """Return why no ONNX file is made; the versions are those of the package index's metadata."""
    from core.errors import ToolMissing

    return ToolMissing(
        "--to onnx: optimum-onnx 0.1.0, the newest, needs transformers < 4.58 and optimum 2.1; edgekiln's extra train pins "
        "transformers 5.23.0, so the two cannot be installed together",
        remedy="Make GGUF files, or merge the adapter and run optimum-cli in a virtual environment of its own.",
    )


@app.command
def table(
    artifact: str | None = None,
    *,
    html: Annotated[Path | None, Parameter(converter=named_path)] = None,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Show the files of an export beside each other: size, bits per weight, loss, divergence, and which none other beats.

    Parameters
    ----------
    artifact
        The id of one, or its beginning; else the newest
    html
        Also write them, with plots, as a page that needs no network
    """
    from core.report.page import page_html
    from core.report.quantisations import quantisations_page, quantisations_table, tasks_table
    from core.report.render import as_document

    found = _found(shelf(common), artifact)
    if html is not None:
        write_named(html, page_html(quantisations_page(found)), "--html")
    files, tasks = quantisations_table(found), tasks_table(found)
    document = {**as_document(files), **({"tasks": as_document(tasks)} if tasks else {})}
    answer(common, document, "\n".join(drawn(one) for one in (files, tasks) if one).rstrip("\n"))


@app.command
def publish(
    artifact: str | None = None,
    *,
    to: str | None = None,
    dry_run: Annotated[bool, Parameter(negative=())] = False,
    profile: str = "demo",
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),  # noqa: A002 - it is --set everywhere
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Send a model that passed its gate to a Hugging Face repository or an object store, with its card and checksums.

    Parameters
    ----------
    artifact
        The id of one, or its beginning; else the profile's current model
    to
        hf://owner/name[@branch] or s3://bucket/prefix; else what the profile's publish.to says
    dry_run
        Only show what would be sent
    profile
        A shipped profile, one of your own, or a YAML file
    set
        Change a field: --set publish.token_env=MY_TOKEN; may be repeated
    """
    from core import config
    from core.events import tee
    from core.publish.publish import publish as send
    from core.report.publication import delivery_table
    from core.sinks import hiding, log, secret_names

    terminal, asked = begin(common), config.load(profile, (*set, *([f"publish.to={to}"] if to is not None else ())))
    workspace = shelf(common)
    found = _found(workspace, artifact or _current(workspace, asked.name))
    done = send(workspace, found, asked, hiding(secret_names(asked), tee(log, terminal)), dry_run=dry_run)
    answer(common, done.model_dump(mode="json"), drawn(delivery_table(done)).rstrip("\n"))


def _current(workspace: Workspace, profile: str) -> str:
    from core.errors import ArtifactMissing
    from core.promote import current

    if (pointer := current(workspace, profile)) is None:
        raise ArtifactMissing(
            f"profile {profile} has no current model in {workspace.root}",
            remedy=f"Run `edgekiln run --profile {profile}`, or name an export: edgekiln export publish ID",
        )
    return pointer.artifact_id


def _found(workspace: Workspace, artifact: str | None) -> GgufModel:
    from core.contract import Stage
    from core.errors import ArtifactMissing
    from core.nouns import GgufModel
    from core.produced import find
    from core.workspace import artifacts

    if artifact is not None:
        return find(workspace, artifact).model
    exports = [one for one in artifacts(workspace, Stage.EXPORT) if isinstance(one, GgufModel)]
    if not exports:
        raise ArtifactMissing(f"no export lies in {workspace.root}", remedy="Make one: edgekiln export, or edgekiln run.")
    return max(exports, key=lambda one: one.created_at)
