"""`label status` from the ledger: what is done, what it took, and when it ends, as a range."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.record import Message
from core.label.ledger import Ledger, open_ledger
from core.label.request import Reply, Request
from core.label.status import LabelStatus, rate_of, status


def _moments(gaps_s: list[float]) -> list[float]:
    """Return moments so many seconds apart, the newest first."""
    return list(accumulate(gaps_s, initial=0.0))[::-1]


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
                _answer(ledger, f"{session} {number}", cost=0.5)
            ledger.tell(3)
        found = status(ledger)
    assert found is not None
    assert (found.session.questions, found.session.reused, found.session.done, found.waiting) == (10, 3, 3, 4)
    assert (found.spent.answered, found.spent.tokens, found.spent.cost) == (6, 42, 3.0)
    assert found.rate is None
    assert found.eta_latest_s is None
    assert found.eta_unknown == "too few answers yet"


def _answer(ledger: Ledger, text: str, cost: float | None = None) -> None:
    messages = (Message(role="user", content=text),)
    request = Request(teacher="t", messages=messages, temperature=0.0, max_tokens=9, seed=1)
    ledger.begin(request)
    reply = Reply(text="a", finish_reason="stop", prompt_tokens=5, completion_tokens=2, latency_ms=1.5)
    ledger.commit(request.key, reply, cost)


class Clocks:
    """The clock on the wall, which may be put on and back, and the one that goes on evenly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.even_s = 1000.0
        self.error_s = 0.0
        clocks = self

        class Date(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime(2026, 1, 1, tzinfo=tz) + timedelta(seconds=clocks.even_s + clocks.error_s)

        monkeypatch.setattr(time, "perf_counter", lambda: clocks.even_s)
        for module in ("ledger", "status"):
            monkeypatch.setattr(f"core.label.{module}.datetime", Date)


def _labelled(
    path: Path, clocks: Clocks, jumps_s: Sequence[float], every_s: float = 2.0, ended: str | None = None
) -> LabelStatus:
    """Return how a labelling stands whose answers came evenly while the clock on the wall jumped before each."""
    with open_ledger(path) as ledger:
        ledger.start("artifact", "t", questions=1000, reused=0)
        for number, jump_s in enumerate(jumps_s):
            clocks.even_s += every_s
            clocks.error_s += jump_s
            _answer(ledger, str(number))
            ledger.tell(number + 1, ended)
        found = status(ledger)
    assert found is not None
    return found


@pytest.mark.parametrize("jump_s", [8 * 3600.0, -8 * 3600.0, 0.4, -0.4])
def test_a_clock_on_the_wall_that_jumps_leaves_rate_and_end_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    found = _labelled(tmp_path / "l.sqlite", Clocks(monkeypatch), [0.0] * 50 + [jump_s] + [0.0] * 49)
    assert found.rate is not None
    assert (found.rate.lowest, found.rate.mean, found.rate.highest) == pytest.approx((0.5, 0.5, 0.5))
    assert (found.eta_soonest_s, found.eta_latest_s) == pytest.approx((1800.0, 1800.0))


@settings(max_examples=25)
@given(
    jumps_s=st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=30),
    every_s=st.floats(0.01, 100),
)
def test_whatever_the_clock_on_the_wall_does_an_even_rate_is_told_evenly(
    tmp_path_factory: pytest.TempPathFactory, jumps_s: list[float], every_s: float
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        path = tmp_path_factory.mktemp("ledger") / "l.sqlite"
        found = _labelled(path, Clocks(monkeypatch), jumps_s, every_s)
    assert found.rate is not None
    assert (found.rate.lowest, found.rate.mean, found.rate.highest) == pytest.approx((1 / every_s,) * 3)


def test_an_end_is_not_told_from_answers_of_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch)
    _labelled(tmp_path / "l.sqlite", clocks, [0.0] * 100)
    for silent_s, unknown in ((50, None), (600, "no answer for 10 min by the clock on the wall"), (-600, None)):
        clocks.error_s = silent_s
        with open_ledger(tmp_path / "l.sqlite") as ledger:
            found = status(ledger)
        assert found is not None
        assert found.rate is not None
        assert (found.eta_unknown, found.eta_latest_s is None) == (unknown, unknown is not None)


@pytest.mark.parametrize(("silent_s", "ended", "is_known"), [(400, None, True), (600, None, False), (6000, "done", True)])
def test_a_slow_teacher_may_be_silent_as_before_and_one_that_is_done_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float, ended: str | None, is_known: bool
) -> None:
    clocks = Clocks(monkeypatch)
    _labelled(tmp_path / "l.sqlite", clocks, [0.0] * 10, every_s=60.0, ended=ended)
    clocks.error_s = silent_s
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        found = status(ledger)
    assert found is not None
    assert (found.eta_unknown is None) == is_known
