"""Notices of eviction: real signals, and metadata services on the loopback interface that speak as the clouds document."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.metadata_service import Answer, MetadataService
from core.train.eviction import Watcher
from core.train.limits import EvictionLimits
from core.train.notices import SOURCES, TROUBLE, Aws, Azure, Gcp, Notice
from tests.core.train.metadata_servers import AwsCloud, AzureCloud, Cloud, GcpCloud, served

FIRMWARE = {
    "AWS": {"sys_vendor": "Amazon EC2"},
    "GCP": {"product_name": "Google Compute Engine"},
    "Azure": {"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
}
CLOUDS: dict[str, type[Cloud]] = {"AWS": AwsCloud, "GCP": GcpCloud, "Azure": AzureCloud}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (Aws, Gcp, Azure):
        monkeypatch.setattr(source, "interval_s", 0.02)


def machine(tmp_path: Path, provider: str) -> Path:
    folder = tmp_path / "sys/class/dmi/id"
    folder.mkdir(parents=True)
    for name, value in FIRMWARE.get(provider, {"sys_vendor": "LENOVO"}).items():
        (folder / name).write_text(value, encoding="utf-8")
    return tmp_path


@contextmanager
def watching(cloud: Cloud, provider: str, **limits: object) -> Iterator[Watcher]:
    with Watcher(EvictionLimits(cloud=provider, metadata_url=cloud.url, **limits)) as watcher:
        yield watcher


def until(found: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.005)


def heard(watcher: Watcher) -> Notice:
    until(watcher.current)
    notice = watcher.current()
    assert notice is not None
    return notice


def seconds_left(notice: Notice) -> float:
    assert notice.deadline is not None
    return (notice.deadline - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize("provider", CLOUDS)
def test_a_notice_comes_is_known_with_its_deadline_and_is_withdrawn(provider: str, tmp_path: Path) -> None:
    with served(CLOUDS[provider]()) as cloud:
        limits = EvictionLimits(metadata_url=cloud.url)
        with Watcher(limits, machine(tmp_path, provider)) as watcher:
            until(lambda: len(cloud.asked) > 2)
            assert (watcher.cloud, watcher.current(), watcher.trouble) == (provider, None, None)
            assert watcher.fits(1e6)

            cloud.notify(seconds=30)
            notice = heard(watcher)

            assert (notice.source, notice.leaves) == (provider, True)
            assert 27 < seconds_left(notice) <= 30
            assert (watcher.fits(20), watcher.fits(28.5)) == (True, False)
            time.sleep(0.1)
            assert watcher.current() == notice

            cloud.withdraw()
            until(lambda: watcher.current() is None)
            assert watcher.fits(1e6)


@pytest.mark.parametrize("provider", ["AWS", "Azure"])
def test_a_notice_that_comes_late_leaves_no_time_for_a_save(provider: str) -> None:
    with served(CLOUDS[provider]()) as cloud, watching(cloud, provider) as watcher:
        cloud.notify(seconds=1)
        assert seconds_left(heard(watcher)) <= 1
        assert not watcher.fits(0.5)


@pytest.mark.parametrize("ahead_s", [-3600, 3600])
@pytest.mark.parametrize("provider", ["AWS", "Azure"])
def test_a_deadline_is_told_by_this_machines_clock_however_wrong_that_is(provider: str, ahead_s: int) -> None:
    with served(CLOUDS[provider]()) as cloud, watching(cloud, provider) as watcher:
        cloud.ahead_s = ahead_s
        cloud.notify(seconds=60 + ahead_s)
        assert 57 < seconds_left(heard(watcher)) <= 61
        assert (watcher.fits(40), watcher.fits(61)) == (True, False)


def test_a_notice_is_heard_while_the_main_thread_evaluates(tmp_path: Path) -> None:
    with served(GcpCloud()) as cloud, watching(cloud, "GCP") as watcher:
        until(lambda: cloud.held)
        threading.Timer(0.1, cloud.notify).start()
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            sum(range(1000))
        notice = watcher.current()

    assert notice is not None
    assert notice.kind == "preempt"


def test_a_rebalance_recommendation_asks_for_a_save_and_not_to_leave() -> None:
    with served(AwsCloud()) as cloud, watching(cloud, "AWS") as watcher:
        cloud.rebalance = '{"noticeTime": "2026-10-27T08:22:00Z"}'
        notice = heard(watcher)
        assert (notice.kind, notice.leaves, notice.deadline, watcher.fits(1e6)) == ("rebalance", False, None, True)

        cloud.notify(seconds=100)
        until(lambda: watcher.current() != notice)
        assert heard(watcher).kind == "terminate"


def test_hibernation_leaves_no_time() -> None:
    with served(AwsCloud()) as cloud, watching(cloud, "AWS") as watcher:
        cloud.notify(seconds=120, action="hibernate")
        assert heard(watcher).kind == "hibernate"
        assert not watcher.fits(0)


def test_a_token_that_ran_out_is_replaced() -> None:
    with served(AwsCloud()) as cloud, watching(cloud, "AWS") as watcher:
        until(lambda: len(cloud.asked) > 4)
        assert len(cloud.tokens) == 1
        cloud.tokens = dict.fromkeys(cloud.tokens, 0.0)
        cloud.notify()
        assert heard(watcher).kind == "terminate"
        assert (len(cloud.tokens), watcher.trouble) == (2, None)


def test_a_maintenance_counts_where_it_ends_the_machine_and_not_where_it_moves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gcp, "_HELD_S", 1)
    with served(GcpCloud()) as cloud, watching(cloud, "GCP") as watcher:
        cloud.set("maintenance-event", "MIGRATE_ON_HOST_MAINTENANCE")
        until(lambda: sum("maintenance" in path for _, path in cloud.asked) > 1)  # asked for when a held request ends
        until(lambda: cloud.held > 1)
        assert watcher.current() is None
        cloud.set("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")
        assert heard(watcher).kind == "maintenance"
        assert 50 < seconds_left(heard(watcher)) <= 60


def test_compute_engine_is_asked_by_a_request_that_it_holds() -> None:
    with served(GcpCloud()) as cloud, watching(cloud, "GCP") as watcher:
        until(lambda: cloud.held)
        asked = len(cloud.asked)
        time.sleep(0.3)
        assert (len(cloud.asked), cloud.held) == (asked, 1)
        began = time.monotonic()
        cloud.notify()
        assert heard(watcher).source == "GCP"
        assert time.monotonic() - began < 0.5


def test_an_answer_that_is_not_from_compute_engine_is_no_notice() -> None:
    with served(GcpCloud()) as cloud, watching(cloud, "GCP") as watcher:
        cloud.fault = (200, b"TRUE")
        until(lambda: watcher.trouble)
        assert watcher.current() is None


def test_an_event_is_approved_once_and_starts() -> None:
    with served(AzureCloud()) as cloud, watching(cloud, "Azure") as watcher:
        assert not watcher.acknowledge()
        cloud.notify(seconds=30)
        before = heard(watcher)
        assert watcher.acknowledge()
        assert cloud.approved == ["event-1"]
        until(lambda: watcher.current() != before)
        assert seconds_left(heard(watcher)) <= 0


def test_an_event_of_another_machine_is_no_notice_and_a_shared_one_is_not_approved_for_the_others() -> None:
    with served(AzureCloud()) as cloud, watching(cloud, "Azure") as watcher:
        cloud.notify(resources=("trainer-8",))
        until(lambda: sum("scheduledevents" in path for _, path in cloud.asked) > 3)
        assert watcher.current() is None
        cloud.notify(resources=("Trainer-7", "trainer-8"))
        assert heard(watcher).kind == "preempt"
        assert not watcher.acknowledge()
        assert cloud.approved == []


def test_every_event_counts_until_the_machine_knows_its_name() -> None:
    with served(AzureCloud()) as cloud, watching(cloud, "Azure") as watcher:
        cloud.name = None
        cloud.notify(resources=("trainer-8",))
        assert heard(watcher).kind == "preempt"
        assert not watcher.acknowledge()
        cloud.name = "trainer-7"
        until(lambda: watcher.current() is None)


def test_a_pause_is_no_notice_and_a_reboot_counts_when_it_comes_near() -> None:
    with served(AzureCloud()) as cloud, watching(cloud, "Azure", within_s=100) as watcher:
        cloud.notify(kind="Freeze", seconds=20)
        cloud.notify(kind="Reboot", seconds=5 * 86_400)
        until(lambda: sum("scheduledevents" in path for _, path in cloud.asked) > 3)
        assert watcher.current() is None
        cloud.events[1]["NotBefore"] = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        assert heard(watcher).kind == "reboot"


FAULTS: dict[str, tuple[int, bytes]] = {
    "server error": (500, b""),
    "not json": (200, b"<html>"),
    "nested": (200, b"[" * 100_000),
    "oversized": (200, b'{"action":"terminate","time":"2026-01-01T00:00:00Z","x":"' + b"x" * (1 << 20) + b'"}'),
    "no text": (200, b"\xff\xfe\x00"),
    "forbidden": (403, b""),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("provider", CLOUDS)
def test_a_service_that_lies_or_fails_changes_nothing_and_is_told(provider: str, fault: str) -> None:
    with served(CLOUDS[provider]()) as cloud, watching(cloud, provider) as watcher:
        cloud.notify(seconds=60)
        before = heard(watcher)
        assert watcher.trouble is None
        cloud.fault = FAULTS[fault]
        until(lambda: watcher.trouble, seconds=8)
        assert watcher.current() == before
        assert str(watcher.trouble).startswith(f"{provider} at 127.0.0.1:")
        # Azure reads an approval by its status alone
        assert watcher.acknowledge() is (provider == "Azure" and fault in {"not json", "nested", "no text"})
        cloud.fault = None
        cloud.withdraw()
        until(lambda: watcher.current() is None and watcher.trouble is None)


def test_a_redirect_is_not_followed() -> None:
    with served(AwsCloud()) as elsewhere, served(AwsCloud()) as cloud, watching(cloud, "AWS") as watcher:
        cloud.fault = (302, f"{elsewhere.url}/latest/meta-data/spot/instance-action".encode())
        until(lambda: "status 302" in str(watcher.trouble))
        assert elsewhere.asked == []


@contextmanager
def stranger(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection by a function, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def silent(connection: socket.socket) -> None:
    with connection:
        while connection.recv(4096):
            pass


def dripping(connection: socket.socket) -> None:
    with connection:
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 10_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            return


@pytest.mark.parametrize("manner", [silent, dripping])
def test_an_answer_that_does_not_end_is_given_up_in_time(manner: Callable[[socket.socket], None]) -> None:
    with stranger(manner) as address:
        began = time.perf_counter()
        with pytest.raises(TimeoutError):
            MetadataService(address).ask("GET", "/", {}, timeout_s=0.4)
        assert 0.3 < time.perf_counter() - began < 1.0


@pytest.mark.parametrize("manner", [silent, dripping])
def test_the_thread_ends_at_once_when_the_watcher_is_closed(manner: Callable[[socket.socket], None]) -> None:
    with stranger(manner) as address:
        watcher = Watcher(EvictionLimits(cloud="Azure", metadata_url=f"http://{address}"))
        with watcher:
            time.sleep(0.1)
            assert watcher.current() is None
            began = time.perf_counter()
        assert time.perf_counter() - began < 0.5
    assert "eviction-notices" not in {thread.name for thread in threading.enumerate()}


def test_a_service_that_accepts_nobody_holds_nothing_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = []
        for _ in range(4):  # fill the queue of connections
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(address)
            waiting.append(one)
        with Watcher(EvictionLimits(cloud="Azure", metadata_url=f"http://127.0.0.1:{address[1]}")) as watcher:
            time.sleep(0.1)
            assert watcher.current() is None
            began = time.perf_counter()
        assert time.perf_counter() - began < 0.5
        for one in waiting:
            one.close()
    assert "eviction-notices" not in {thread.name for thread in threading.enumerate()}


def test_a_service_that_was_cut_answers_no_more() -> None:
    with served(AwsCloud()) as cloud:
        service = MetadataService(cloud.url.removeprefix("http://"))
        service.cut()
        with pytest.raises(ConnectionAbortedError):
            service.ask("GET", "/", {}, timeout_s=1)
        assert cloud.asked == []


def test_sigterm_is_a_notice_with_its_grace_and_the_earliest_deadline_wins() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with served(AzureCloud()) as cloud, watching(cloud, "Azure", sigterm_grace_s=8, margin_s=1) as watcher:
        cloud.notify(seconds=60)
        assert heard(watcher).source == "Azure"
        os.kill(os.getpid(), signal.SIGTERM)
        notice = heard(watcher)
        assert (notice.source, notice.kind) == ("SIGTERM", "sigterm")
        assert 7 < seconds_left(notice) <= 8
        assert (watcher.fits(6), watcher.fits(7.5)) == (True, False)
        os.kill(os.getpid(), signal.SIGTERM)
        assert watcher.current() == notice
        cloud.events[0]["NotBefore"] = (datetime.now(UTC) + timedelta(seconds=3)).strftime("%a, %d %b %Y %H:%M:%S GMT")
        until(lambda: heard(watcher).source == "Azure")
    assert signal.getsignal(signal.SIGTERM) is before


def test_off_a_cloud_nobody_is_asked_and_no_thread_runs(tmp_path: Path) -> None:
    root = machine(tmp_path, "none")
    threads = threading.active_count()
    with served(AwsCloud()) as cloud:
        began = time.perf_counter()
        with Watcher(EvictionLimits(metadata_url=cloud.url), root) as watcher:
            assert threading.active_count() == threads + 1  # the server's
            assert (watcher.cloud, watcher.current(), watcher.fits(1e9), watcher.acknowledge()) == (None, None, True, False)
        assert time.perf_counter() - began < 0.1
        assert cloud.asked == []
    with Watcher(EvictionLimits(cloud="none"), machine(tmp_path / "other", "AWS")) as watcher:
        assert watcher.cloud is None


@pytest.mark.parametrize("url", ["https://127.0.0.1", "http://127.0.0.1/path", "127.0.0.1:80", "http://127.0.0.1:99999"])
def test_an_address_that_is_no_plain_http_host_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        EvictionLimits(metadata_url=url)


class Parrot(MetadataService):
    """Says one thing to every question, which no real service can be asked for."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__("127.0.0.1:9")
        self.said = Answer(status=status, text=text, headers={"metadata-flavor": "Google", "etag": text[:9]})

    def ask(self, *_: object, **__: object) -> Answer:
        return self.said


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
EVENT = st.fixed_dictionaries(
    {"EventId": st.text(), "EventType": st.just("Preempt")},
    optional={"NotBefore": st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ .{0,6}"), "EventStatus": JSON},
)
TEXTS = st.text() | st.builds(
    json.dumps,
    JSON
    | st.fixed_dictionaries({"action": JSON | st.text(), "time": JSON | st.text() | st.datetimes().map(str)})
    | st.fixed_dictionaries({"Events": st.lists(EVENT, max_size=2)}),
)


HUGE = {"EventId": "1", "EventType": "Preempt", "NotBefore": f"Mon, 19 Sep 2016 18:29:4{'5' * 30} GMT"}


@given(st.sampled_from(sorted(SOURCES)), st.sampled_from([200, 204, 401, 404, 500]), TEXTS)
@example("Azure", 200, json.dumps({"Events": [HUGE]}))
def test_whatever_a_service_says_a_question_ends_with_a_notice_none_or_a_named_trouble(
    provider: str, status: int, text: str
) -> None:
    source = SOURCES[provider]()
    for question in source.questions:
        try:
            notice = question(Parrot(status, text))
        except TROUBLE:
            continue
        assert notice is None or isinstance(notice, Notice)
