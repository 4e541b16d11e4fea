"""Immutable segments: each name is written once, listed in order, and fetched only as it was put."""

from __future__ import annotations

import threading

import pytest

from core.errors import ArtifactError, ArtifactMissing, FileTampered, PathEscapes, RemoteDiffers, RemoteUnconditional
from core.remote.segments import fetch_segment, put_segment, segments
from core.remote.store import Store, Traits
from tests.core.remote.conftest import Place
from tests.core.remote.proxy import Proxy


def test_a_segment_is_written_once_and_the_same_bytes_are_no_second_one(place: Place) -> None:
    store = place.store()
    assert put_segment(store, "ledger/0001", b"one") is True
    assert put_segment(store, "ledger/0001", b"one") is False
    with pytest.raises(RemoteDiffers, match="another segment of 3 bytes"):
        put_segment(store, "ledger/0001", b"two")
    assert fetch_segment(store, "ledger/0001", 100) == b"one"


def test_segments_are_listed_by_name_with_their_sizes(place: Place) -> None:
    store = place.store()
    for number in range(3):
        put_segment(store, f"ledger/{2 - number:04}", b"x" * (2 - number))
    put_segment(store, "ledger-other/0001", b"y")
    assert [(each.name, each.bytes) for each in segments(store, "ledger")] == [
        ("ledger/0000", 0),
        ("ledger/0001", 1),
        ("ledger/0002", 2),
    ]


@pytest.mark.full
def test_more_segments_than_one_page_holds_are_all_listed(place: Place) -> None:
    for number in range(1001):
        place.client.put_object(Bucket=place.bucket, Key=f"kiln/many/{number:05}", Body=b"")
    assert len(segments(place.store(), "many")) == 1001


def test_a_key_that_edgekiln_never_makes_is_not_listed(place: Place) -> None:
    place.client.put_object(Bucket=place.bucket, Key="kiln/ledger/a b", Body=b"")
    place.client.put_object(Bucket=place.bucket, Key="kiln/ledger/%2e%2e", Body=b"")
    assert segments(place.store(), "ledger") == ()
    with pytest.raises(PathEscapes):
        put_segment(place.store(), "../ledger", b"")


def test_of_many_writers_one_writes_and_the_others_are_told(place: Place) -> None:
    outcomes: list[str] = []

    def write(number: int) -> None:
        try:
            outcomes.append(str(put_segment(place.store(), "ledger/1", f"{number}".encode())))
        except RemoteDiffers:
            outcomes.append("differs")

    rivals = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for each in rivals:
        each.start()
    for each in rivals:
        each.join()
    assert sorted(outcomes) == ["True", *["differs"] * 7]


def test_a_changed_or_strange_or_large_or_missing_segment_is_not_handed_on(place: Place) -> None:
    store = place.store()
    put_segment(store, "ledger/1", b"one")
    told_as = place.client.head_object(Bucket=place.bucket, Key="kiln/ledger/1")["Metadata"]
    place.client.put_object(Bucket=place.bucket, Key="kiln/ledger/1", Body=b"onf", Metadata=told_as)
    with pytest.raises(FileTampered, match="when it was sent"):
        fetch_segment(store, "ledger/1", 100)
    place.client.put_object(Bucket=place.bucket, Key="kiln/ledger/2", Body=b"two")
    with pytest.raises(FileTampered, match="no hash of ours"):
        fetch_segment(store, "ledger/2", 100)
    with pytest.raises(ArtifactError, match="has 3 bytes > 2"):
        fetch_segment(store, "ledger/2", 2)
    with pytest.raises(ArtifactMissing):
        fetch_segment(store, "ledger/3", 100)


def test_a_write_whose_answer_was_lost_is_seen_as_ours(place: Place, proxy: Proxy) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.drop()
    proxy.faults.lose_answers = 1
    assert put_segment(store, "ledger/1", b"one") is False
    assert proxy.faults.lose_answers == 0
    assert fetch_segment(store, "ledger/1", 100) == b"one"


def test_a_store_is_not_taken_for_unconditional_when_answers_are_lost(place: Place, proxy: Proxy) -> None:
    for lost in (1, 2, 3):
        proxy.faults.lose_answers = lost
        with Store(place.config(proxy.port, attempts=5)) as store:
            assert store.traits() == Traits(checks_sha256=True, conditional=True)
        assert proxy.faults.lose_answers == 0
        proxy.drop()


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_store_that_would_write_over_a_segment_is_found_out_and_refused(place: Place, conditions: str) -> None:
    place.manners.conditions = conditions
    with pytest.raises(RemoteUnconditional, match="does not keep to the conditions"):
        put_segment(place.store(), "ledger/1", b"one")
    assert place.names() == []
