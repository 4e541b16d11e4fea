"""What a worker tells when it is told to stop, and when it cannot hear whether it is."""

from __future__ import annotations

import time

import pytest

from core.errors import Evicted
from core.events import Event, Leaving, Note
from core.train.eviction import Watcher
from core.train.limits import EvictionLimits
from core.train.notices import Aws, Azure
from core.train.stop import Stop
from tests.core.train.metadata_servers import AwsCloud, AzureCloud, served


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (Aws, Azure):
        monkeypatch.setattr(source, "interval_s", 0.02)


def until(found, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def test_a_cloud_that_is_not_heard_is_told_once_and_stops_nothing() -> None:
    told: list[Event] = []
    with served(AzureCloud()) as cloud:
        cloud.fault = (500, b"no")
        with Watcher(EvictionLimits(cloud="Azure", metadata_url=cloud.url)) as watcher:
            stop = Stop(watcher, on_event=told.append)
            until(lambda: watcher.trouble)
            assert [stop.asked for _ in range(5)] == [None] * 5
    (text,) = [event.text for event in told if isinstance(event, Note)]
    assert text.startswith(f"eviction notices cannot be heard: Azure at {cloud.url.removeprefix('http://')}")
    assert "status 500" in text


def test_who_takes_the_machine_and_by_when_is_told_before_it_is_obeyed() -> None:
    told: list[Event] = []
    with served(AzureCloud()) as cloud:
        cloud.notify(seconds=30)
        with Watcher(EvictionLimits(cloud="Azure", metadata_url=cloud.url)) as watcher:
            stop = Stop(watcher, on_event=told.append)
            until(lambda: stop.asked)
            assert told == []
            notice = watcher.current()
            with pytest.raises(Evicted, match="Azure takes this machine away"):
                stop.obey()
    (leaving,) = told
    assert isinstance(leaving, Leaving)
    assert (leaving.source, leaving.way, leaving.deadline) == ("Azure", "preempt", notice.deadline if notice else None)


def test_a_recommendation_to_leave_stops_nothing_and_asks_for_one_save_each_time_it_comes() -> None:
    told: list[Event] = []
    with served(AwsCloud()) as cloud, Watcher(EvictionLimits(cloud="AWS", metadata_url=cloud.url)) as watcher:
        stop = Stop(watcher, on_event=told.append)
        assert not stop.advises_save()
        cloud.rebalance = '{"noticeTime": "2026-10-27T08:22:00Z"}'
        until(watcher.current)
        assert [stop.advises_save() for _ in range(3)] == [True, False, False]
        assert stop.asked is None
        cloud.rebalance = '{"noticeTime": "2026-10-27T09:22:00Z"}'
        until(stop.advises_save)
        cloud.notify(seconds=100)
        until(stop.is_asked)
        assert not stop.advises_save()
    assert [event.text for event in told if isinstance(event, Note)] == [
        "AWS may soon take this machine away (rebalance): a checkpoint is taken now"
    ] * 2
