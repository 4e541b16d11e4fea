"""The quality score: between 0 and 1, each component shown, worse for each thing that is wrong; the worst rows first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.limits import QualityWeights, RuleLimits
from core.data.quality import Quality, ScoredRow, Worst, quality
from core.data.rules import judge
from core.data.subject import Subject

LIMITS = RuleLimits(languages=("fr",))
QUESTION = "Comment faire cuire un œuf à la coque sans qu'il éclate dans l'eau?"
GOOD = "Sors l'œuf du frigo une demi-heure avant, puis dépose-le doucement dans l'eau qui frémit, six minutes."


def scored(subject: Subject, limits: RuleLimits = LIMITS, weights: QualityWeights | None = None) -> Quality:
    return quality(subject, judge(subject, limits), limits, weights or QualityWeights())


def test_a_good_row_scores_one() -> None:
    assert scored(Subject(user=QUESTION, answer=GOOD)).score == 1
    assert scored(Subject(user=QUESTION)).score == 1


def test_each_component_shows_what_is_wrong() -> None:
    wrong = {
        "length": "Six.",
        "variety": "oui " * 8,
        "language": "Take the egg out of the fridge half an hour before you put it gently into the water.",
        "encoding": f"{GOOD} prÃªt",
        "ending": f"{GOOD} Et puis avec",
        "ratio": GOOD * 40,
        "warnings": f"{GOOD} J'espère que cela vous aide.",
    }
    for component, answer in wrong.items():
        result = scored(Subject(user=QUESTION, answer=answer))
        value = result.components[component]
        assert value is not None
        assert value < 1, component
        assert 0 < result.score < 1


def test_what_does_not_apply_weighs_nothing() -> None:
    result = scored(Subject(user=QUESTION, answer="{}", requires_json=True, tool_schema={"type": "object"}), RuleLimits())

    assert {name for name, value in result.components.items() if value is None} >= {"length", "language", "ratio", "ending"}
    assert result.score == 1


def test_a_row_with_an_error_scores_nothing() -> None:
    assert scored(Subject(user=QUESTION, answer=" ")).score == 0


def test_the_weights_decide() -> None:
    subject = Subject(user=QUESTION, answer=f"{GOOD} J'espère que cela vous aide.")
    alone = QualityWeights(length=0, variety=0, language=0, ratio=0, encoding=0, ending=0, warnings=1)

    assert scored(subject, weights=alone).score == 0.5
    assert scored(subject, weights=alone.model_copy(update={"warnings": 0.0})).score == 0


@settings(deadline=None)
@given(st.text(max_size=200), st.none() | st.text(max_size=200))
def test_every_score_lies_between_nothing_and_one(user: str, answer: str | None) -> None:
    result = scored(Subject(user=user, answer=answer))

    assert 0 <= result.score <= 1
    assert all(value is None or 0 <= value <= 1 for value in result.components.values())


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=40).flatmap(st.permutations))
def test_the_worst_rows_are_kept_whatever_their_order(scores: list[float]) -> None:
    worst = Worst(5)
    offered = [
        ScoredRow(row_id=f"{number:02}", where="a:1", score=score, components={}, codes=(), excerpt="")
        for number, score in enumerate(scores)
    ]
    for row in offered:
        if worst.takes(row.score):
            worst.add(row)

    assert worst.rows() == sorted(offered, key=lambda row: (row.score, row.row_id))[:5]
