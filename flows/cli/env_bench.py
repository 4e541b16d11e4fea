"""`edgekiln env bench`: what this machine can do, measured, kept, and held against its own history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.cli.session import Common, answer, begin, drawn, tree

if TYPE_CHECKING:
    from core.benchdb.machine_history import Compared
    from core.report.table import Cell, Table

_DEFAULT_COMMON = Common()
_LOCK_TIMEOUT_S = 60.0


def bench(*, seconds: float = 1.0, common: Common = _DEFAULT_COMMON) -> None:
    """Measure matrix multiplication on each device, memory bandwidth and disk; keep it and compare with earlier runs.

    Parameters
    ----------
    seconds
        Time for each measurement
    """
    from core.benchdb.machine_history import compared
    from core.benchdb.writer import write_kept
    from core.config import cache_folder
    from core.env.machine_bench import measure
    from core.errors import UsageError
    from core.workspace import locked

    if not 0 < seconds <= 60:
        raise UsageError(f"--seconds {seconds:g} is not > 0 and <= 60", remedy="Name the time of one measurement.")
    sink = begin(common)
    workspace = tree(common)
    with locked(workspace, "edgekiln env bench"):
        run = measure(workspace, cache_folder(), seconds, sink)
        write_kept(workspace, _LOCK_TIMEOUT_S)
    told = compared(workspace, run)
    document = {"run": run.model_dump(mode="json"), "compared": [each.model_dump(mode="json") for each in told]}
    answer(common, document, drawn(_table(told)))


def _table(told: tuple[Compared, ...]) -> Table:
    from core.report.table import Column, Table

    return Table(
        title="What this machine can do",
        columns=(
            Column(key="test", title="test"),
            Column(key="device", title="device"),
            Column(key="detail", title="detail"),
            Column(key="value", title="median", digits=3, align="right"),
            Column(key="unit", title="unit"),
            Column(key="earlier", title="earlier runs", align="right"),
            Column(key="median", title="their median", digits=3, align="right"),
            Column(key="ratio", title="ratio", digits=3, align="right"),
            Column(key="origin", title="origin"),
        ),
        rows=tuple(_row(each) for each in told),
        notes=tuple(f"{each.figure.test} {each.figure.detail}: {each.figure.error}" for each in told if each.figure.error),
    )


def _row(each: Compared) -> tuple[Cell, ...]:
    figure = each.figure
    told: tuple[Cell, ...] = (figure.test, figure.device, figure.detail, figure.value, figure.unit)
    return (*told, each.earlier, each.median, each.ratio, figure.origin.value)
