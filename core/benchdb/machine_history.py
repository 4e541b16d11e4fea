"""A run of `edgekiln env bench` beside the same machine's earlier ones."""

from __future__ import annotations

import statistics

from core.benchdb.queries import reading
from core.contract import Contract, Origin
from core.env.machine_bench import Figure, MachineRun
from core.workspace import Workspace

_EARLIER = """
    SELECT test, device, detail, value FROM machine_results
    WHERE fingerprint = ? AND origin = ? AND value IS NOT NULL AND measured_at < ?
"""

Key = tuple[str, str, str]


class Compared(Contract):
    """A figure with the median of the earlier ones of the same machine; both None where there is none to compare with."""

    figure: Figure
    earlier: int
    median: float | None
    ratio: float | None


def compared(workspace: Workspace, run: MachineRun) -> tuple[Compared, ...]:
    """Return each figure of a run beside this machine's earlier ones in the database; only measured ones are compared."""
    earlier: dict[Key, list[float]] = {}
    with reading(workspace) as connection:
        asked = [run.host.fingerprint, Origin.MEASURED.value, run.measured_at]
        for test, device, detail, value in connection.execute(_EARLIER, asked).fetchall():
            earlier.setdefault((test, device, detail), []).append(value)
    return tuple(_beside(figure, earlier.get((figure.test, figure.device, figure.detail), [])) for figure in run.figures)


def _beside(figure: Figure, earlier: list[float]) -> Compared:
    median = statistics.median(earlier) if earlier else None
    comparable = median is not None and figure.value is not None and figure.origin is Origin.MEASURED
    ratio = figure.value / median if comparable and figure.value and median else None
    return Compared(figure=figure, earlier=len(earlier), median=median, ratio=ratio)
