"""A search's table, charts and page, from records as a search leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.report import charts
from core.report.render import render
from core.report.search import Found, search_charts, search_page, trials_table, write_page
from core.search.range_test.curve import curve_of
from core.search.record import Measured, TrialRecord

RATES = [1e-6 * 1.5**step for step in range(20)]


def record(number: int, loss: float | None, **told: object) -> TrialRecord:
    drawn = {"learning_rate": 1e-4 * (number + 1), "r": (8, 64)[number % 2], "lora_alpha": ("r", 32)[number % 2]}
    measured = None
    if loss is not None:
        measured = Measured(
            held_out_loss=loss, base_held_out_loss=3.0, training_s=10.0 - number, trainable_parameters=10**6, steps=9
        )
    fields = {"outcome": "finished" if loss is not None else "pruned", "reason": "", "spent_s": 3.0, "early_losses": (2.0,)}
    return TrialRecord.model_validate(
        {"number": number, "drawn": drawn, "settings": {"lora": {"r": 8}}, "measured": measured, **fields, **told}
    )


TRIALS = (
    record(0, 2.0),
    record(1, None, reason="held-out loss 2.5000 after step 3 is worse than the median"),
    record(2, 1.5, is_best=True),
    record(3, None, outcome="diverged", reason="the loss of step 4 is nan"),
    record(4, 1.8, is_best=True),
)
FOUND = Found(
    goals=("held_out_loss", "training_s"),
    records=TRIALS,
    importances={"r": 0.25, "learning_rate": 0.75},
    curve=curve_of(RATES, [2.0 - step * 0.05 if step < 15 else 1.3 + step * 0.2 for step in range(20)], ""),
)


@pytest.fixture(scope="module")
def drawn() -> dict[str, charts.Chart]:
    return dict(search_charts(FOUND))


def test_every_chart_can_be_drawn(drawn):
    assert list(drawn) == ["history.png", "importances.png", "pareto.png", "parallel.png", "range_test.png"]
    for chart in drawn.values():
        assert len(charts.png(chart, scale=1.0)) > 3000


def values(chart: charts.Chart) -> list[dict]:
    data = chart.spec.get("data") or chart.spec["layer"][0]["data"]
    return data["values"] if "values" in data else chart.spec["datasets"][data["name"]]


def test_the_history_keeps_the_lowest_loss_so_far(drawn):
    assert [(row["trial"], row["best"]) for row in values(drawn["history.png"])] == [(0, 2.0), (2, 1.5), (4, 1.5)]


def test_importances_stand_in_their_order(drawn):
    assert [row["name"] for row in values(drawn["importances.png"])] == ["learning_rate", "r"]


def test_the_line_of_the_front_goes_through_the_best_alone(drawn):
    assert [(row["trial"], row["best"]) for row in values(drawn["pareto.png"])] == [(0, 0), (2, 1), (4, 1)]
    filters = [layer["transform"][0]["filter"] for layer in drawn["pareto.png"].spec["layer"]]
    assert filters == ["(!(datum['best'] === 1))", "(datum['best'] === 1)"]


def test_every_finished_trial_crosses_every_axis_between_its_ends(drawn):
    rows = values(drawn["parallel.png"])
    assert len(rows) == 3 * 3
    assert {row["setting"] for row in rows} == {"learning rate", "r", "alpha"}
    assert all(0 <= row["place"] <= 1 for row in rows)
    rates = {row["trial"]: row["place"] for row in rows if row["setting"] == "learning rate"}
    assert rates[0] == 0 < rates[2] < rates[4] == 1


def test_a_search_with_one_trial_and_one_goal_has_the_charts_it_is_enough_for():
    found = Found(goals=("held_out_loss",), records=(record(0, 2.0, is_best=True),), importances={}, curve=None)
    assert [name for name, _ in search_charts(found)] == ["history.png"]


def test_the_table_tells_every_trial_with_its_values_and_why_it_ended():
    text = render(trials_table(TRIALS, "Trials"), "text", width=160)
    assert "the loss of step 4 is nan" in text
    document = json.loads(render(trials_table(TRIALS, "Trials"), "json"))
    assert [row["held_out_loss"] for row in document["rows"]] == [2.0, None, 1.5, None, 1.8]
    assert document["rows"][2]["best"] is True
    assert document["rows"][1]["lora_alpha"] == 32


def test_the_page_names_the_winner_and_how_to_take_it(tmp_path: Path, drawn):
    page = search_page(FOUND, TRIALS[2], list(drawn.values()))
    assert page.tone == "good"
    assert "Trial 2 is the best: held-out loss 1.5000, before training 3.0000" in page.lead
    assert page.sections[0].code == "--set train.lora.r=8"
    names = write_page(tmp_path, FOUND, TRIALS[2])
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert "Pareto front" in (tmp_path / "index.html").read_text(encoding="utf-8")
