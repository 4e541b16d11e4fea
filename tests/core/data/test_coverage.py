"""Labels over a corpus: counted in bounded memory, whatever the order; what dominates or is missing is told."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.coverage import Coverage
from core.data.limits import CoverageLimits


def covered(rows: list[dict[str, Any]], limits: CoverageLimits | None = None) -> Coverage:
    coverage = Coverage(limits or CoverageLimits())
    for row in rows:
        coverage.add(row)
    return coverage


def test_tags_and_labels_are_counted_once_a_row() -> None:
    rows = [{"tags": ["a", "b", "a"], "registre": "familier"}, {"tags": ["a"]}, {"tags": [3, None, ""], "label": True}]

    fields = {field.field: (field.rows, field.values) for field in covered(rows).fields()}

    assert fields == {"tags": (2, {"a": 2, "b": 1}), "registre": (1, {"familier": 1}), "label": (1, {"True": 1})}


def test_a_label_that_dominates_is_told_with_its_share() -> None:
    rows = [{"registre": "familier"}] * 17 + [{"registre": "soutenu"}] * 3

    (finding,) = covered(rows).findings()

    assert finding.code == "data-label-imbalance"
    assert "17 of 20 labelled rows, 85%, are 'familier' > data.coverage.max_share 60%" in finding.evidence
    assert covered(rows[:19]).findings() == ()


def test_a_tag_on_every_row_is_no_imbalance() -> None:
    assert covered([{"tags": ["québécois", str(number)]} for number in range(40)]).findings() == ()


def test_rows_without_the_label_others_have_are_told() -> None:
    rows = [{"tags": ["a"]}] * 20 + [{}] * 21

    (finding,) = covered(rows).findings()

    assert (finding.code, finding.where) == ("data-label-missing", "tags")


def test_a_value_below_its_share_is_told_also_when_it_never_came() -> None:
    limits = CoverageLimits(min_share={"tags": {"tool": 0.3, "math": 0.1, "email": 0.05}})
    rows = [{"tags": ["tool"]}] * 2 + [{"tags": ["math"]}] * 8

    (finding,) = covered(rows, limits).findings()

    assert finding.code == "data-coverage-low"
    assert finding.evidence == "'email' in 0 of 10 rows, 0.0% < 5.0%; 'tool' in 2 of 10 rows, 20.0% < 30.0%"


def test_a_field_with_too_many_values_is_free_text_and_takes_no_memory() -> None:
    limits = CoverageLimits(max_values=10)
    rows = [{"label": f"free text {number}"} for number in range(30)]

    (field,) = covered(rows, limits).fields()

    assert (field.rows, field.values) == (30, None)
    assert covered(rows, limits).findings() == ()


@settings(deadline=None)
@given(st.permutations([{"registre": "a"}] * 9 + [{"registre": "b"}] * 9 + [{"registre": f"c{k}"} for k in range(7)]))
def test_the_order_of_the_rows_changes_nothing(rows: list[dict[str, Any]]) -> None:
    limits = CoverageLimits(max_values=8, max_share=0.3)
    ordered = sorted(rows, key=str)

    assert covered(rows, limits).fields() == covered(ordered, limits).fields()
    assert covered(rows, limits).findings() == covered(ordered, limits).findings()
