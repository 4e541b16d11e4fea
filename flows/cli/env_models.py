"""`edgekiln env models`: the known students and teachers by whether and how well they fit this machine and the board."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, drawn

if TYPE_CHECKING:
    from core.env.known_models import Ranking
    from core.env.model_ranking import Ranked
    from core.report.table import Cell, Table

_DEFAULT_COMMON = Common()
_GIB = 1 << 30
_NO_CASE = "-"  # None would say that nobody knows
_FITS = {True: "yes", False: "no", None: None}


def models(
    *,
    profile: str = "demo",
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),  # noqa: A002 - it is --set everywhere
    hub: Annotated[bool, Parameter(negative=("--no-hub",))] = True,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Rank the known students and teachers by whether and how well they fit here with the profile's settings.

    Parameters
    ----------
    profile
        A shipped profile, one of your own, or a YAML file
    set
        Change a field: --set train.max_length=256; may be repeated
    hub
        Ask the Hugging Face hub for small models too
    """
    from core import config
    from core.env.known_models import rank_known

    asked = config.load(profile, set)
    beside = config.find_profile(profile).parent
    ranking = rank_known(asked, beside, hub=hub, on_event=begin(common))
    answer(common, ranking.model_dump(mode="json"), drawn(_table(ranking)))


def _table(ranking: Ranking) -> Table:
    from core.report.table import Column, Table

    columns = (
        Column(key="name", title="name"),
        Column(key="roles", title="roles", optional=True),
        Column(key="parameters", title="parameters", unit="M", digits=0, align="right"),
        Column(key="fits", title="fits"),
        Column(key="training_gib", title="training", unit="GiB", digits=1, align="right"),
        Column(key="largest_batch", title="largest batch", align="right"),
        Column(key="inference_gib", title="inference", unit="GiB", digits=2, align="right", optional=True),
        Column(key="board_kind", title="best type"),
        Column(key="source", title="from", optional=True),
    )
    rows = tuple(_row(each, ranking.batch) for each in ranking.models)
    return Table(title=f"Models for {ranking.profile}", columns=columns, rows=rows, notes=ranking.notes)


def _row(each: Ranked, batch: int) -> tuple[Cell, ...]:
    model = each.candidate
    student = "student" in model.roles
    return (
        model.name,
        ", ".join(model.roles),
        None if model.parameters is None else model.parameters / 1e6,
        _fits(each, batch),
        _gib(each.training_bytes) if student else _NO_CASE,
        each.largest_batch if student else _NO_CASE,
        _NO_CASE if model.remote else _gib(each.inference_bytes),
        each.board_kind if student else _NO_CASE,
        model.source,
    )


def _fits(each: Ranked, batch: int) -> str | None:
    if each.fits and each.largest_batch is not None and each.largest_batch < batch:
        return f"with batch {each.largest_batch}"
    return _FITS[each.fits]


def _gib(size: int | None) -> float | None:
    return None if size is None else size / _GIB
