"""The lock: one holder whatever the rivals do, taken over when it expires, and a stolen one is noticed."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import RemoteDiffers, RemoteFailed, RemoteLocked, RemoteLockLost, RemoteUnconditional
from core.events import Event, Note
from core.remote import lock as module
from core.remote.lock import Lock, Record, hold, take
from tests.core.remote.conftest import Place
from tests.core.remote.proxy import Proxy

NAME = "locks/run"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL_S", 0.05)


def spoil(place: Place, **changes: Any) -> None:
    """Write over the lock as a rival that does not keep to the rules."""
    answer = place.client.get_object(Bucket=place.bucket, Key=f"kiln/{NAME}")
    record = Record.model_validate_json(answer["Body"].read()).model_copy(update=changes)
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}", Body=record.model_dump_json().encode())


def test_a_lock_is_refused_while_held_by_name_and_free_after_release(place: Place) -> None:
    store = place.store()
    with hold(store, NAME, "kiln-1") as held:
        held.check()
        with pytest.raises(RemoteLocked, match=r"held by 'kiln-1', for 6\d s more if it is dead"):
            take(place.store(), NAME, "kiln-2")
    with pytest.raises(RemoteLockLost, match="it was released"):
        held.check()
    take(place.store(), NAME, "kiln-2").release()


@pytest.mark.full
def test_renewal_keeps_it_past_its_expiry(place: Place) -> None:
    with hold(place.store(lock_expiry_s=1), NAME, "kiln-1") as held:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            held.check()
            time.sleep(0.1)
        with pytest.raises(RemoteLocked):
            take(place.store(lock_expiry_s=1), NAME, "kiln-2")


@pytest.mark.full
def test_a_dead_holders_lock_is_taken_over_after_its_expiry_and_the_dead_one_knows(place: Place) -> None:
    dead = take(place.store(lock_expiry_s=1), NAME, "kiln-1")
    began = time.monotonic()
    heir = take(place.store(lock_expiry_s=60), NAME, "kiln-2", wait_s=20)
    assert 1 <= time.monotonic() - began < 10
    heir.check()
    assert not dead.held
    with pytest.raises(RemoteLockLost, match="not renewed for 1 s"):
        dead.renew()


def test_a_stolen_lock_is_noticed_at_the_next_renewal_and_told(place: Place) -> None:
    told: list[Event] = []
    with hold(place.store(lock_expiry_s=3), NAME, "kiln-1", on_event=told.append) as held:
        spoil(place, owner="thief", token="f" * 32)
        until = time.monotonic() + 5
        while held.held and time.monotonic() < until:
            time.sleep(0.05)
        with pytest.raises(RemoteLockLost, match="thief has it"):
            held.check()
    assert [event.text for event in told if isinstance(event, Note) and "thief" in event.text]
    answer = place.client.get_object(Bucket=place.bucket, Key=f"kiln/{NAME}")
    assert b"thief" in answer["Body"].read()


def test_a_lock_that_was_taken_away_is_lost(place: Place) -> None:
    held = take(place.store(), NAME, "kiln-1")
    place.client.delete_object(Bucket=place.bucket, Key=f"kiln/{NAME}")
    with pytest.raises(RemoteLockLost, match="taken away"):
        held.renew()
    held.release()


def test_writes_whose_answers_were_lost_still_hold(place: Place, proxy: Proxy) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.lose_answers = 1
    held = take(store, NAME, "kiln-1")
    proxy.drop()
    proxy.faults.lose_answers = 1
    held.renew()
    held.renew()
    assert proxy.faults.lose_answers == 0
    held.check()


@pytest.mark.full
def test_a_store_out_of_reach_costs_the_lock_only_after_its_expiry(place: Place, proxy: Proxy) -> None:
    told: list[Event] = []
    store = place.store(proxy.port, lock_expiry_s=3, attempts=1, connect_timeout_s=0.3, timeout_s=0.5)
    with hold(store, NAME, "kiln-1", on_event=told.append) as held:
        proxy.faults.refuse = True
        proxy.drop()
        time.sleep(1.5)
        assert held.held
        proxy.faults.refuse = False
        time.sleep(2.5)
        held.check()
        proxy.faults.refuse = True
        proxy.drop()
        time.sleep(3.2)
        assert not held.held
    assert [event for event in told if isinstance(event, Note) and "not renewed" in event.text]


def test_something_else_under_the_locks_name_is_not_written_over(place: Place) -> None:
    place.client.put_object(Bucket=place.bucket, Key=f"kiln/{NAME}", Body=b"my notes")
    with pytest.raises(RemoteDiffers, match="no lock of edgekiln's"):
        take(place.store(), NAME, "kiln-1")


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_store_that_keeps_no_lock_is_found_out(place: Place, conditions: str) -> None:
    place.manners.conditions = conditions
    with pytest.raises(RemoteUnconditional):
        take(place.store(), NAME, "kiln-1")


class Critical:
    """What only one may do at a time: counts who is in, and remembers when there were two."""

    def __init__(self) -> None:
        self._inside = 0
        self._guard = threading.Lock()
        self.entries = self.collisions = 0

    def enter(self, held: Lock, stay_s: float) -> None:
        with self._guard:
            if not held.held:
                return
            self._inside += 1
            self.entries += 1
            self.collisions += self._inside > 1
        until = time.monotonic() + stay_s
        while held.held and time.monotonic() < until:
            time.sleep(0.002)
        with self._guard:
            self._inside -= 1


def rival(place: Place, port: int, plan: list[tuple[float, bool]], critical: Critical) -> None:
    store = place.store(port, lock_expiry_s=1, threads=1)
    for stay_s, dies in plan:
        try:
            held = take(store, NAME, "rival", wait_s=1.0)
        except RemoteFailed:  # held by another, or out of reach: then a lock that was taken unseen expires
            continue
        critical.enter(held, 5.0 if dies else stay_s)  # who dies stays until the lock expired under it, and never releases
        if not dies:
            held.release()


PLANS = st.lists(
    st.lists(st.tuples(st.floats(0, 0.05), st.integers(0, 9).map(lambda n: n == 0)), max_size=3), min_size=2, max_size=5
)


def play(place: Place, proxy: Proxy, plans: list[list[tuple[float, bool]]], lost: int) -> int:
    """Let rivals follow their plans, with answers lost on the way, and return how often one had the lock."""
    proxy.faults.lose_answers = lost
    critical = Critical()
    rivals = [threading.Thread(target=rival, args=(place, proxy.port, plan, critical)) for plan in plans]
    for each in rivals:
        each.start()
    for each in rivals:
        each.join()
    assert critical.collisions == 0
    place.client.delete_object(Bucket=place.bucket, Key=f"kiln/{NAME}")
    return critical.entries


def test_of_rivals_one_at_a_time_has_it_and_one_that_dies_costs_an_expiry(place: Place, proxy: Proxy) -> None:
    plans = [[(0.01, False), (0.02, False)], [(0.0, True)], [(0.02, False)] * 3, [(0.03, False), (0.0, False)]]
    assert play(place, proxy, plans, lost=2)  # how many wait in vain depends on the machine


@pytest.mark.full
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plans=PLANS, lost=st.integers(0, 3))
def test_there_are_never_two_holders(place: Place, proxy: Proxy, plans: list[list[tuple[float, bool]]], lost: int) -> None:
    play(place, proxy, plans, lost)


def test_the_count_of_holders_sees_two_where_the_lock_is_broken(place: Place) -> None:
    critical = Critical()
    locks = [take(place.store(), f"{NAME}-{number}", "rival") for number in range(2)]
    both = [threading.Thread(target=critical.enter, args=(each, 0.2)) for each in locks]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert (critical.entries, critical.collisions) == (2, 1)
