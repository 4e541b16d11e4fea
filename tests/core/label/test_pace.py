"""The pace finds the knee of an endpoint and halves when it objects; the breaker waits for one that is down."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.label.breaker import DOWN_AFTER, Breaker
from core.label.pace import START, Pace


def _play(pace: Pace, slots: int, answers: int, *, capacity: int = 10**9) -> tuple[float, list[int]]:
    """Let an endpoint of so many slots serve one second an answer, refusing beyond its capacity; return rate and limits."""
    now, done, limits = 0.0, 0, []
    under_way: list[tuple[float, float]] = []
    free_at = [0.0] * slots
    while done < answers:
        while len(under_way) < pace.limit:
            start = max(now, heapq.heappop(free_at))
            heapq.heappush(free_at, start + 1.0)
            heapq.heappush(under_way, (start + 1.0, now))
        now, sent = heapq.heappop(under_way)
        if len(under_way) >= capacity:
            pace.objected(sent, now)
        else:
            pace.answered(sent, now, tokens=10)
            done += 1
        limits.append(pace.limit)
    return done / now, limits


@pytest.mark.parametrize("slots", [1, 3, 8, 32])
def test_the_rate_of_any_number_of_slots_is_reached(slots: int) -> None:
    rate, limits = _play(Pace(64), slots, 4000)
    assert rate >= 0.95 * slots
    assert max(limits[-500:]) <= max(START + 1, 4 * slots)


def test_a_pace_that_never_climbs_misses_the_rate() -> None:
    class Fixed(Pace):
        def _end_window(self, rate: float) -> None:  # noqa: ARG002  # it learns nothing
            return

    rate, _ = _play(Fixed(64), 32, 4000)
    assert rate < 0.95 * 32


def test_an_objection_halves_once_for_all_that_was_under_way() -> None:
    pace = Pace(64)
    pace.limit = 32
    for _ in range(32):
        pace.objected(sent_at=1.0, now=2.0)
    assert pace.limit == 16
    pace.objected(sent_at=2.5, now=3.0)
    assert pace.limit == 8


def test_an_endpoint_that_refuses_beyond_its_capacity_is_kept_busy_and_seldom_overrun() -> None:
    pace = Pace(64)
    _, limits = _play(pace, 64, 4000, capacity=20)
    assert 8 <= sum(limits[-1000:]) / 1000 <= 22


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.just("object"), st.integers(0, 1000)), max_size=300), st.integers(1, 64))
def test_the_limit_stays_between_one_and_the_most(history: list[str | int], most: int) -> None:
    pace, now = Pace(most), 0.0
    for action in history:
        now += 0.25
        if isinstance(action, int):
            pace.answered(now - 0.25, now, action)
        else:
            pace.objected(now, now)
        assert 1 <= pace.limit <= most


def test_a_breaker_opens_after_failures_in_a_row_lets_one_try_and_closes_with_an_answer() -> None:
    breaker = Breaker()
    breaker.answered()
    assert [breaker.failed(1.0) for _ in range(DOWN_AFTER)] == [False] * (DOWN_AFTER - 1) + [True]
    assert breaker.wait_s(1.5) > 0
    assert breaker.wait_s(2.1) == 0.0
    assert breaker.wait_s(2.1) > 0, "one tries at a time"
    assert not breaker.failed(2.2)
    assert breaker.wait_s(3.5) > 0, "the wait doubles"
    assert breaker.wait_s(4.3) == 0.0
    assert breaker.answered()
    assert breaker.wait_s(4.4) == 0.0
    assert breaker.open_since is None


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(DOWN_AFTER - 1):
            assert not breaker.failed(0.0)
        assert not breaker.answered()


def test_an_answer_to_what_was_sent_before_a_pause_does_not_end_it() -> None:
    breaker = Breaker()
    for _ in range(DOWN_AFTER):
        breaker.failed(10.0)
    assert not breaker.answered(sent_at=9.5)
    assert breaker.open_since == 10.0
    assert breaker.wait_s(11.1) == 0.0
    assert breaker.answered(sent_at=11.1)
    assert breaker.open_since is None
