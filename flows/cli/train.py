"""`edgekiln train`: train the student; what presets there are for it. Watching one is in watch.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from flows.cli.session import Choice, Common, answer, begin, drawn, shelf
from flows.cli.stages import run_stage

if TYPE_CHECKING:
    from core.env.preset_offers import Offer, Offers
    from core.report.table import Cell, Table
    from core.train.presets import Preset
    from core.workspace import Workspace

app = App(name="train")
_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()
_GIB = 1 << 30


app.command("flows.cli.watch:watch", name="watch")


@app.default
def _train(*, choice: Choice = _DEFAULT_CHOICE, common: Common = _DEFAULT_COMMON) -> None:
    """Train the student; goes on at the last verified checkpoint."""
    run_stage("train", choice, common)


@app.command
def presets(
    *,
    profile: str = "demo",
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),  # noqa: A002 - it is --set everywhere
    common: Common = _DEFAULT_COMMON,
) -> None:
    """List the presets: what each is for, what a training of the profile's student needs with it, whether it fits here.

    Parameters
    ----------
    profile
        A shipped profile, one of your own, or a YAML file
    set
        Change a field: --set train.max_length=256; may be repeated
    """
    from core.env.preset_offers import offer_presets

    offers = offer_presets(profile, set, _shelf(common), begin(common))
    answer(common, offers.model_dump(mode="json"), drawn(_table(offers)))


def _shelf(common: Common) -> Workspace | None:
    """Return the workspace whose earlier trainings tell how long one takes; None where there is none yet."""
    from core.errors import ArtifactMissing

    try:
        return shelf(common)
    except ArtifactMissing:
        return None


def _table(offers: Offers) -> Table:
    from core.report.table import Column, Table

    columns = (
        Column(key="preset", title="preset"),
        Column(key="description", title="for", optional=True),
        Column(key="capability", title="GPU capability"),
        Column(key="need_gib", title="memory", unit="GiB", digits=1, align="right"),
        Column(key="here", title="fits here"),
        Column(key="why", title="because", optional=True),
        Column(key="time", title="time here"),
        Column(key="source", title="from", optional=True),
    )
    title = f"Presets for {offers.student} of {offers.profile}"
    return Table(title=title, columns=columns, rows=tuple(map(_row, offers.offers)), notes=offers.notes)


def _row(offer: Offer) -> tuple[Cell, ...]:
    need = None if offer.need_bytes is None else offer.need_bytes / _GIB
    here = {True: "yes", False: "no", None: None}[offer.fits]
    preset = offer.preset
    return (
        preset.name,
        preset.description,
        _capability(preset),
        need,
        here,
        offer.why,
        offer.time.text if offer.time else None,
        preset.source,
    )


def _capability(preset: Preset) -> str:
    if preset.device == "cpu":
        return "no GPU"
    below = f", < {preset.capability_below:.1f}" if preset.capability_below is not None else ""
    return f">= {preset.capability_from:.1f}{below}"
