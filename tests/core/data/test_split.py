"""The split: decided by content alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.data.split import score, side


@given(st.text(), st.none() | st.text())
def test_a_score_lies_in_the_unit_interval(user: str, context: str | None) -> None:
    assert 0 <= score(user, context) < 1


def test_about_the_asked_share_is_held_out() -> None:
    sides = [side(score(f"question {n}", None), 0.25) for n in range(4000)]

    assert 900 < sides.count("held_out") < 1100


def test_case_and_white_space_do_not_part_a_question_from_itself() -> None:
    assert score("Quelle  heure est-il?", None) == score(" quelle heure\nEST-IL?", None)
    assert score("a", "b") != score("b", "a")
