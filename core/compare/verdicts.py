"""What a judge's choices between the answers of two models add up to: won, tied, lost, and how far its two orders agree. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

from core.compare.difference import Difference, difference
from core.contract import Contract
from core.label.entries import Spent

JUDGE = "judge"

Outcome = Literal["won", "tied", "lost"]
_WORTH: dict[Outcome, float] = {"won": 1.0, "tied": 0.5, "lost": 0.0}


class Against(Contract):
    """How a model stands against the first one: `outcomes` are its own, prompt by prompt, None without a verdict.

    Of the pairs the judge chose from in both orders, `agreement` is the share with the same choice in both; `shown_first` is the
    share of all its choices that fell on the answer shown first. None where it chose nowhere.
    """

    won: int
    tied: int
    lost: int
    unjudged: int
    agreement: float | None
    shown_first: float | None
    outcomes: tuple[Outcome | None, ...]


class Judging(Contract):
    """Who judged, by what, and what it took, sessions that were killed too; `against` are the later models, in their order.

    `reused` verdicts were known before; `cost` is None where no prices are; `trouble` says why some were not asked for.
    """

    judge: str
    identity: str
    rubric: str
    reused: int
    spent: Spent
    cost: float | None
    currency: str | None
    trouble: str | None
    against: tuple[Against, ...]


class Choices(NamedTuple):
    """The places the judge chose, 0 for the answer shown first: where the first model's was, where the other's was.

    `settled` is the outcome of a pair nobody has to judge: the same answer twice, or none.
    """

    forward: int | None = None
    backward: int | None = None
    settled: Outcome | None = None


def against(choices: Sequence[Choices]) -> Against:
    """Add up the choices of all prompts: the same choice in both orders wins, a choice that changes with the order is a tie."""
    outcomes = tuple(map(_outcome, choices))
    told = Counter(outcomes)
    both = [(one.forward, one.backward) for one in choices if one.forward is not None and one.backward is not None]
    places = [place for pair in both for place in pair]
    return Against(
        won=told["won"],
        tied=told["tied"],
        lost=told["lost"],
        unjudged=told[None],
        agreement=sum(forward != backward for forward, backward in both) / len(both) if both else None,
        shown_first=places.count(0) / len(places) if places else None,
        outcomes=outcomes,
    )


def _outcome(choices: Choices) -> Outcome | None:
    if choices.settled is not None:
        return choices.settled
    if choices.forward is None or choices.backward is None:
        return None
    if choices.forward == choices.backward:  # the same place, so another answer
        return "tied"
    return "won" if choices.forward == 1 else "lost"


def preference(found: Against) -> Difference | None:
    """Return how much more often the other model is preferred than the first, a tie counting half for each."""
    worth = [_WORTH[outcome] for outcome in found.outcomes if outcome is not None]
    if not worth:
        return None
    return difference(JUDGE, [1 - one for one in worth], worth, [1.0] * len(worth), lower_is_better=False)
