"""Which rung is next: by the alarm, by what a replay put it down to, and by what was done before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.train.alarm import Alarm
from core.train.attribution import Cause
from core.train.course import Course
from core.train.decision import Standing
from core.train.ladder import move_for, replay_bound, tried
from core.train.limits import SupervisionLimits

LIMITS = SupervisionLimits()
SPIKE = Alarm(kind="spike", metric="loss", step=21, figure=9.0)
RUN = Alarm(kind="run", metric="loss", step=21, figure=9.0)
RISE = Alarm(kind="diverging", metric="held_out_loss", step=24, figure=4.0, limit=3.0, baseline=2.5)
ROWS = Cause(kind="data", rows=("row-3",), text="1 of 2 rows stands out")
BATCH = Cause(kind="data", text="none stands out alone")
RATE = Cause(kind="rate", text="other rows are as bad")


def test_nothing_is_done_about_a_step_before_it_was_replayed_on_the_weights_before_it():
    move = move_for(SPIKE, None, Standing(), LIMITS)
    assert (move.kind, move.bound, move.changes) == ("replay", 20, {})
    assert move_for(RUN, None, Standing(), LIMITS).bound == 12


def test_rows_that_stand_out_are_passed_over_without_going_back():
    move = move_for(SPIKE, ROWS, Standing(), LIMITS)
    assert (move.kind, move.bound, move.changes) == ("skip", 20, {"left_out": ("row-3",)})
    assert move_for(SPIKE, BATCH, Standing(), LIMITS).changes == {"skipped_step": 21}


def test_a_learning_rate_too_high_goes_back_to_weights_a_usual_step_has_shown_sound():
    move = move_for(SPIKE, RATE, Standing(course=Course(learning_rate_factor=0.5)), LIMITS)
    assert (move.kind, move.bound, move.changes) == ("go-back", 19, {"learning_rate_factor": 0.25})


def test_rows_of_a_run_have_been_learned_from_so_it_goes_back_before_them():
    move = move_for(RUN, ROWS, Standing(), LIMITS)
    assert (move.kind, move.bound, move.changes) == ("go-back", 12, {"left_out": ("row-3",)})


def test_a_slow_divergence_goes_back_to_the_best():
    move = move_for(RISE, None, Standing(), LIMITS)
    assert (move.kind, move.bound, move.changes) == ("go-back", None, {"learning_rate_factor": 0.5})


def test_when_enough_was_passed_over_it_goes_back_with_a_lower_rate():
    move = move_for(SPIKE, ROWS, Standing(skips=LIMITS.max_skips), LIMITS)
    assert (move.kind, move.changes) == ("go-back", {"left_out": ("row-3",), "learning_rate_factor": 0.5})


@pytest.mark.parametrize(("alarm", "cause"), [(SPIKE, RATE), (RUN, ROWS), (RISE, None)])
def test_after_as_many_times_back_as_allowed_it_gives_up_and_names_what_was_tried(alarm, cause):
    course = Course(learning_rate_factor=0.125, left_out=("row-3", "row-8"), skipped_steps=(7,))
    move = move_for(alarm, cause, Standing(course=course, rollbacks=LIMITS.max_rollbacks), LIMITS)
    assert move.kind == "give-up"
    assert move.reason.startswith(alarm.text)
    assert (
        "3 times back to an earlier checkpoint, learning rate x 0.125, 2 rows left out (row-3, row-8), 1 steps"
        in move.reason
    )
    assert "nothing" in tried(Standing())


@given(
    st.sampled_from([SPIKE, RUN, RISE]),
    st.sampled_from([None, ROWS, BATCH, RATE]),
    st.integers(0, 20),
    st.integers(0, 5),
)
def test_it_never_goes_on_from_the_weights_that_were_alarming_and_never_for_ever(alarm, cause, skips, rollbacks):
    move = move_for(alarm, cause, Standing(skips=skips, rollbacks=rollbacks), LIMITS)
    assert move.bound is None or 0 <= move.bound <= replay_bound(alarm) < alarm.step
    if move.kind == "go-back":
        assert rollbacks < LIMITS.max_rollbacks
    if move.kind == "skip":
        assert skips < LIMITS.max_skips


def test_where_it_only_tells_nothing_is_tried():
    assert move_for(SPIKE, None, Standing(), SupervisionLimits(acts=False)).kind == "give-up"
