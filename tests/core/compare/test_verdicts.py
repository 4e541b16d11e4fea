"""What a judge's choices add up to, and how sure that is."""

from __future__ import annotations

import pytest

from core.compare.verdicts import Choices, against, preference


def test_both_orders_decide_and_a_choice_that_follows_the_place_is_a_tie() -> None:
    found = against(
        [
            Choices(1, 0),  # the other model's answer, wherever it stood
            Choices(0, 1),
            Choices(0, 0),  # whatever stood first
            Choices(1, 1),
            Choices(1, None),
            Choices(settled="tied"),
            Choices(settled="won"),
        ]
    )
    assert found.outcomes == ("won", "lost", "tied", "tied", None, "tied", "won")
    assert (found.won, found.tied, found.lost, found.unjudged) == (2, 3, 1, 1)
    assert found.agreement == 0.5
    assert found.shown_first == 0.5


def test_a_judge_that_looks_only_at_the_place_tells_no_models_apart_and_is_found_out() -> None:
    found = against([Choices(0, 0)] * 40)
    assert (found.agreement, found.shown_first) == (0.0, 1.0)
    told = preference(found)
    assert told is not None
    assert (told.difference, told.low, told.high, told.verdict) == (0.0, 0.0, 0.0, "no clear difference")


@pytest.mark.parametrize(
    ("won", "lost", "verdict"),
    [(30, 10, "better"), (10, 30, "worse"), (21, 19, "no clear difference"), (7, 0, "too few prompts")],
)
def test_the_preference_has_an_interval_over_prompts(won: int, lost: int, verdict: str) -> None:
    told = preference(against([Choices(1, 0)] * won + [Choices(0, 1)] * lost + [Choices(None, 0)] * 5))
    assert told is not None
    assert told.prompts == won + lost
    assert told.difference == pytest.approx((won - lost) / (won + lost))
    assert told.low <= told.difference <= told.high
    assert told.verdict == verdict


def test_without_a_verdict_there_is_no_figure() -> None:
    found = against([Choices(), Choices(0, None)])
    assert preference(found) is None
    assert (found.agreement, found.shown_first, found.unjudged) == (None, None, 2)
