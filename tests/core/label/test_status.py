"""`label status` from the ledger: what is done, what it took, and when it ends, as a range."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.data.record import Message
from core.label.ledger import open_ledger
from core.label.request import Reply, Request
from core.label.status import rate_of, status

START = datetime(2026, 1, 1, tzinfo=UTC)


def _moments(gaps_s: list[float]) -> list[datetime]:
    """Return moments so many seconds apart, the newest first."""
    found = [START]
    for gap in gaps_s:
        found.append(found[-1] + timedelta(seconds=gap))
    return found[::-1]


def test_even_answers_have_one_rate() -> None:
    rate = rate_of(_moments([0.5] * 100))
    assert rate is not None
    assert (rate.lowest, rate.mean, rate.highest) == pytest.approx((2.0, 2.0, 2.0))


def test_a_slow_stretch_widens_the_range() -> None:
    rate = rate_of(_moments([1.0] * 40 + [0.1] * 40))
    assert rate is not None
    assert rate.lowest == pytest.approx(1.0, rel=0.05)
    assert rate.highest == pytest.approx(10.0, rel=0.05)
    assert 1.0 < rate.mean < 10.0


@given(st.lists(st.floats(0, 1000), max_size=60))
def test_the_mean_lies_in_the_range_whatever_the_gaps(gaps_s: list[float]) -> None:
    rate = rate_of(_moments(gaps_s))
    if rate is not None:
        assert 0 < rate.lowest <= rate.mean <= rate.highest


def test_the_newest_session_is_told_with_what_all_its_sessions_took(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        assert status(ledger) is None
        for session in range(2):
            ledger.start("artifact", "t", questions=10, reused=3 * session)
            for number in range(3):
                request = Request(
                    teacher="t",
                    messages=(Message(role="user", content=f"{session} {number}"),),
                    temperature=0.0,
                    max_tokens=9,
                    seed=1,
                )
                ledger.begin(request)
                reply = Reply(text="a", finish_reason="stop", prompt_tokens=5, completion_tokens=2, latency_ms=1.5)
                ledger.commit(request.key, reply, cost=0.5)
            ledger.tell(3)
        found = status(ledger)
    assert found is not None
    assert (found.session.questions, found.session.reused, found.session.done, found.waiting) == (10, 3, 3, 4)
    assert (found.spent.answered, found.spent.tokens, found.spent.cost) == (6, 42, 3.0)
    assert found.rate is None
    assert found.eta_latest_s is None
