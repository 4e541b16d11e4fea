"""Limits, verdicts and contracts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.contract import Contract, Limit, Stage, judge, onward

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS)
def test_a_limit_and_its_opposite_never_agree(measured: float, value: float) -> None:
    for op, opposite in (("<", ">="), (">", "<=")):
        one = judge([Limit(metric="loss", op=op, value=value)], {"loss": measured})
        other = judge([Limit(metric="loss", op=opposite, value=value)], {"loss": measured})
        assert one.passed != other.passed


def test_a_metric_that_was_not_measured_fails_its_limit() -> None:
    verdict = judge([Limit(metric="tg_tps.Q8_0", op=">", value=1.0)], {})
    assert not verdict.passed
    assert verdict.failures[0].measured is None


@pytest.mark.parametrize("op", ["<", "<=", ">", ">=", "=="])
def test_nan_fails_every_limit(op: str) -> None:
    assert not judge([Limit(metric="loss", op=op, value=1.0)], {"loss": math.nan}).passed  # type: ignore[arg-type]


def test_a_gate_without_limits_passes() -> None:
    assert judge([], {"loss": 1.0}).passed


def test_a_contract_is_frozen_and_refuses_unknown_fields() -> None:
    class Point(Contract):
        x: int

    with pytest.raises(ValidationError):
        Point(x=1, y=2)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Point(x=1).x = 2  # type: ignore[misc]


def test_force_takes_the_earliest_named_stage_and_all_after_it() -> None:
    assert onward(["ingest", "bench"]) == {Stage.BENCH, Stage.INGEST}
    assert onward([]) == frozenset()
    assert onward(["search"]) == {Stage.SEARCH}
    assert onward(["train"]) == {Stage.TRAIN, Stage.EXPORT, Stage.BENCH, Stage.INGEST}
    assert onward(["label"]) == onward(["train"]) | {Stage.LABEL, Stage.SEARCH}
    with pytest.raises(ValueError, match="labels"):
        onward(["labels"])
