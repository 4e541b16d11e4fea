"""What a replayed step is put down to: rows among sound ones, or weights on which every row is as bad."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from core.train.attribution import cause_of, standing_out, usual_loss
from core.train.halted import Evidence, RowFigures
from core.train.limits import DetectionLimits

LIMITS = DetectionLimits()


def figures(name: str, count: int, loss: float, norm: float, seed: int = 0) -> tuple[RowFigures, ...]:
    """Return rows whose figures scatter by a fifth."""
    drawn = random.Random(seed)
    return tuple(
        RowFigures(row_id=f"{name}-{n}", loss=loss * drawn.uniform(0.8, 1.2), grad_norm=norm * drawn.uniform(0.8, 1.2))
        for n in range(count)
    )


def test_rows_far_above_others_are_named():
    evidence = Evidence(
        rows=(*figures("good", 3, 2.0, 1.0), *figures("bad", 2, 9.0, 8.0)), others=figures("other", 16, 2, 1)
    )
    cause = cause_of(evidence, 0.3, LIMITS)
    assert (cause.kind, cause.rows) == ("data", ("bad-0", "bad-1"))
    assert cause.text == "2 of 5 rows stand out from others"


def test_a_row_whose_gradient_alone_is_far_out_or_no_number_is_named():
    odd = (RowFigures(row_id="steep", loss=2.0, grad_norm=40.0), RowFigures(row_id="broken", loss=2.0, grad_norm=None))
    evidence = Evidence(rows=(*odd, *figures("good", 2, 2, 1)), others=figures("other", 16, 2, 1))
    assert cause_of(evidence, 0.0, LIMITS).rows == ("steep", "broken")


def test_where_other_rows_are_as_bad_it_is_the_rate_and_no_row_is_named():
    evidence = Evidence(rows=figures("step", 4, 9, 8), others=figures("other", 16, 9, 8))
    cause = cause_of(evidence, 21.0, LIMITS)
    assert (cause.kind, cause.rows) == ("rate", ())
    assert cause.text == "16 other rows on the same weights are as bad (21 deviations above the steps before)"


def test_weights_that_give_most_rows_no_number_are_spoilt():
    broken = tuple(RowFigures(row_id=f"other-{n}", loss=None, grad_norm=None) for n in range(9))
    evidence = Evidence(rows=broken[:2], others=(*broken, *figures("other", 7, 2, 1)))
    cause = cause_of(evidence, -0.1, LIMITS)
    assert (cause.kind, cause.text) == ("rate", "16 other rows on the same weights are as bad (no number)")


def test_where_no_row_of_the_step_stands_out_from_others_it_is_the_weights_all_of_them_met():
    evidence = Evidence(rows=figures("step", 4, 2, 20, seed=3), others=figures("other", 16, 2, 20))
    cause = cause_of(evidence, 0.1, LIMITS)
    assert (cause.kind, cause.rows) == ("rate", ())
    assert cause_of(evidence, 99.0, LIMITS, "run").kind == "rate"


def test_a_step_without_a_number_though_each_of_its_rows_has_one_is_passed_over():
    evidence = Evidence(rows=figures("step", 4, 2, 1, seed=3), others=figures("other", 16, 2, 1))
    cause = cause_of(evidence, 0.1, LIMITS, "nan")
    assert (cause.kind, cause.rows) == ("data", ())


def test_rows_of_a_run_are_named_however_bad_its_steps_had_become():
    evidence = Evidence(rows=(*figures("good", 9, 2.0, 1.0), *figures("bad", 2, 9, 8)), others=figures("other", 16, 2, 1))
    assert cause_of(evidence, 99.0, LIMITS, "run").rows == ("bad-0", "bad-1")


def test_too_few_others_name_no_row_but_one_without_a_number():
    evidence = Evidence(
        rows=(*figures("far", 2, 90, 90), RowFigures(row_id="broken", loss=None, grad_norm=None)),
        others=figures("other", 3, 2, 1),
    )
    assert standing_out(evidence, LIMITS) == ("broken",)
    assert cause_of(evidence.model_copy(update={"rows": evidence.rows[:2]}), None, LIMITS).kind == "data"
    assert usual_loss(()) is None
    assert usual_loss((*evidence.others, *evidence.rows[:1])) < 3


@given(st.floats(1e-3, 1e3), st.integers(0, 99))
def test_a_losss_scale_does_not_change_which_rows_stand_out(scale, seed):
    rows, others = figures("bad", 2, 9, 9, seed), figures("other", 16, 2, 1, seed)

    def scaled(ones: tuple[RowFigures, ...]) -> tuple[RowFigures, ...]:
        return tuple(one.model_copy(update={"loss": one.loss * scale, "grad_norm": one.grad_norm * scale}) for one in ones)

    assert standing_out(Evidence(rows=scaled(rows), others=scaled(others)), LIMITS) == ("bad-0", "bad-1")
    assert standing_out(Evidence(rows=scaled(others[:4]), others=scaled(others[4:])), LIMITS) == ()
