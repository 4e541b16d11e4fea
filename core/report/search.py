"""A search's table of trials, its charts and its page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from core.contract import Contract
from core.files import read_json_lines, write_atomic
from core.report import charts
from core.report.charts import Chart, Record
from core.report.page import Page, Section, page_html
from core.report.table import Cell, Column, Table
from core.search.range_test.curve import Curve
from core.search.record import Measured, TrialRecord
from core.search.winner import as_overrides

PAGE = "index.html"
TRIALS = "trials.jsonl"
_LOSS = "held-out loss [nats per completion token]"
_GOAL_TITLES = {"training_s": "training [s]", "trainable_parameters": "trainable parameters"}
_TITLES = {
    "learning_rate": "learning rate",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "effective_batch": "batch",
    "lr_scheduler_type": "schedule",
}


class Found(Contract):
    """What a search found, as its page shows it."""

    goals: tuple[str, ...]
    records: tuple[TrialRecord, ...]
    importances: dict[str, float]
    curve: Curve | None


def trials_table(records: Sequence[TrialRecord], title: str, notes: Sequence[str] = ()) -> Table:
    """Return every trial as a row: what was drawn, how it ended, and what it measured."""
    names = list(dict.fromkeys(name for record in records for name in record.drawn))
    columns = (
        Column(key="trial", title="trial", align="right"),
        Column(key="outcome", title="outcome"),
        *(Column(key=name, title=_TITLES.get(name, name), align="right") for name in names),
        Column(key="held_out_loss", title="held-out loss", digits=4, align="right"),
        Column(key="training_s", title="training", unit="s", digits=1, align="right", optional=True),
        Column(key="trainable_parameters", title="parameters", short=True, align="right", optional=True),
        Column(key="best", title="best", optional=True),
        Column(key="reason", title="why"),
    )
    return Table(title=title, columns=columns, rows=tuple(_row(record, names) for record in records), notes=tuple(notes))


def _row(record: TrialRecord, names: Sequence[str]) -> tuple[Cell, ...]:
    measured = record.measured
    figures: tuple[Cell, ...] = (None, None, None)
    if measured:
        figures = (measured.held_out_loss, measured.training_s, measured.trainable_parameters)
    drawn = (record.drawn.get(name) for name in names)
    return (record.number, record.outcome, *drawn, *figures, record.is_best, record.reason)


def read_trials(folder: Path) -> list[TrialRecord]:
    """Return the trials in the folder of a SearchReport."""
    return [TrialRecord.model_validate(record) for record in read_json_lines(folder / TRIALS)]


def write_page(content: Path, found: Found, best: TrialRecord) -> list[str]:
    """Write the page and a PNG of every chart, and return their names."""
    drawn = dict(search_charts(found))
    for name, chart in drawn.items():
        write_atomic(content / name, charts.png(chart))
    write_atomic(content / PAGE, page_html(search_page(found, best, list(drawn.values()))).encode())
    return [PAGE, *drawn]


def search_page(found: Found, best: TrialRecord, drawn: Sequence[Chart]) -> Page:
    """Return the page of a search."""
    loss = best.measured.held_out_loss if best.measured else math.nan
    base = best.measured.base_held_out_loss if best.measured else math.nan
    outcomes = [record.outcome for record in found.records]
    counted = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes))
    return Page(
        title="Search for training settings",
        lead=f"Trial {best.number} is the best: held-out loss {loss:.4f}, before training {base:.4f}.",
        tone="good" if loss < base else "bad",
        facts=(("trials", counted), ("made small", ", ".join(goal.replace("_", " ") for goal in found.goals))),
        sections=(
            Section(heading="The winner's settings", code="\n".join(f"--set {one}" for one in as_overrides(best.settings))),
            Section(heading="Charts", charts=tuple(drawn)),
            Section(heading="Trials", tables=(trials_table(found.records, "Every trial, in the order they began"),)),
        ),
    )


def search_charts(found: Found) -> Iterable[tuple[str, Chart]]:
    """Yield the charts that the trials are enough for, by the name of their PNG."""
    finished = [(record, record.measured) for record in found.records if record.measured]
    yield "history.png", _history(finished)
    if found.importances:
        yield (
            "importances.png",
            charts.shares(
                "Importances",
                "How much each setting mattered for the held-out loss, by PED-ANOVA over the finished trials.",
                sorted(found.importances.items(), key=lambda pair: -pair[1]),
                x="importance",
            ),
        )
    if len(found.goals) > 1:
        yield "pareto.png", _pareto(finished, next(goal for goal in found.goals if goal != "held_out_loss"))
    if len(finished) > 1:
        yield "parallel.png", _parallel(finished)
    if found.curve and found.curve.points:
        yield "range_test.png", _range_test(found.curve)


def _history(finished: Sequence[tuple[TrialRecord, Measured]]) -> Chart:
    records: list[Record] = []
    lowest = math.inf
    for record, measured in finished:
        lowest = min(lowest, measured.held_out_loss)
        records.append({"trial": record.number, "loss": measured.held_out_loss, "best": lowest})
    caption = "The held-out loss of every finished trial; the line is the lowest so far."
    return charts.best_so_far("History", caption, records, x=("trial", "trial"), y=("loss", _LOSS), best="best")


def _pareto(finished: Sequence[tuple[TrialRecord, Measured]], goal: str) -> Chart:
    records: list[Record] = [
        {
            "trial": record.number,
            "goal": getattr(measured, goal),
            "loss": measured.held_out_loss,
            "best": int(record.is_best),
        }
        for record, measured in finished
    ]
    caption = "Down and left is better. No trial is better in both than one on the line."
    axes = {"x": ("goal", _GOAL_TITLES[goal]), "y": ("loss", _LOSS)}
    return charts.front("Pareto front", caption, records, **axes, flag="best", name="trial")


def _parallel(finished: Sequence[tuple[TrialRecord, Measured]]) -> Chart:
    records: list[Record] = []
    for name in dict.fromkeys(name for record, _ in finished for name in record.drawn):
        places = _places([record.drawn[name] for record, _ in finished])
        records += [
            {
                "trial": record.number,
                "setting": _TITLES.get(name, name),
                "place": place,
                "value": f"{value:.3g}" if isinstance(value := record.drawn[name], float) else str(value),
                "held_out_loss": measured.held_out_loss,
            }
            for (record, measured), place in zip(finished, places, strict=True)
        ]
    return charts.parallel(
        "Parallel coordinates",
        "A line is a finished trial, the darkest has the lowest held-out loss.",
        records,
        axis="setting",
        place="place",
        shown="value",
        of=("trial", "held_out_loss"),
    )


def _places(values: Sequence[Any]) -> list[float]:
    """Return where each value stands between the lowest and the highest: rates by their logarithm, choices by their rank."""
    if all(isinstance(value, float) and value > 0 for value in values) and len(set(values)) > 1:
        logs = [math.log(value) for value in values]
        return [(one - min(logs)) / (max(logs) - min(logs)) for one in logs]
    known = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    return [known.index(value) / max(1, len(known) - 1) for value in values]


def _range_test(curve: Curve) -> Chart:
    suggested = (
        f" The rule is at the suggestion, {curve.suggested_learning_rate:.2e}." if curve.suggested_learning_rate else ""
    )
    return charts.rate_curve(
        "Learning-rate range test",
        f"The loss of a short training whose rate rises; the line is smoothed.{suggested}",
        [point.model_dump() for point in curve.points],
        x=("learning_rate", "learning rate"),
        y=("loss", "training loss [nats per completion token]"),
        even="smoothed",
        mark=curve.suggested_learning_rate,
    )
