"""Uploads beside the work: promised means sent, outages are waited out and told once, nothing under way is deleted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.events import Event, Note
from core.remote.pull import pull
from core.remote.uploader import Uploader
from tests.core.remote.conftest import Place
from tests.core.remote.proxy import Proxy

Make = Callable[..., Path]


def notes(told: list[Event], level: str) -> list[str]:
    return [event.text for event in told if isinstance(event, Note) and event.level == level]


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def uploader(place: Place, proxy: Proxy, told: list[Event]) -> Iterator[Uploader]:
    store = place.store(proxy.port, attempts=1, connect_timeout_s=0.5, timeout_s=1.0)
    with Uploader(store, capacity=2, on_event=told.append) as running:
        yield running


def test_what_was_promised_is_in_the_store_after_a_flush(
    place: Place, uploader: Uploader, folder: Make, told: list[Event], tmp_path: Path
) -> None:
    first, second = folder("a"), folder("b", seed=2)
    assert uploader.submit(first, "r/a")
    assert uploader.submit(second, "r/b")
    assert uploader.submit(second, "r/b")
    assert uploader.flush(20) == ()
    assert not uploader.uploading(first)
    for name in ("a", "b"):
        pull(place.store(), f"r/{name}", tmp_path / "got" / name, max_bytes=1 << 30)
    assert len(notes(told, "info")) == 2


def test_an_outage_is_told_once_and_waited_out_while_the_work_goes_on(
    place: Place, proxy: Proxy, uploader: Uploader, folder: Make, told: list[Event]
) -> None:
    proxy.faults.refuse = True
    here = folder("a")
    began = time.monotonic()
    assert uploader.submit(here, "r/a")
    assert time.monotonic() - began < 0.1
    assert uploader.flush(1.5) == (here,)
    assert uploader.uploading(here)
    assert len(notes(told, "warning")) == 1
    assert "uploaded later, the work goes on" in notes(told, "warning")[0]
    proxy.faults.refuse = False
    assert uploader.flush(20) == ()
    assert "tries that failed" in notes(told, "info")[-1]
    assert "kiln/r/a/manifest.json" in place.names()


def test_a_full_queue_refuses_and_says_so_and_forgets_nothing(
    proxy: Proxy, uploader: Uploader, folder: Make, told: list[Event]
) -> None:
    proxy.faults.refuse = True
    folders = [folder(name, seed=number) for number, name in enumerate("abc")]
    assert [uploader.submit(each, f"r/{each.name}") for each in folders] == [True, True, False]
    assert [uploader.uploading(each) for each in folders] == [True, True, False]
    assert any("2 folders wait already" in text for text in notes(told, "warning"))
    proxy.faults.refuse = False
    assert uploader.flush(20) == ()
    assert uploader.submit(folders[2], "r/c")
    assert uploader.flush(20) == ()


def test_a_broken_folder_is_told_set_free_and_does_not_hold_up_the_next(
    place: Place, uploader: Uploader, folder: Make, told: list[Event]
) -> None:
    broken, good = folder("a"), folder("b", seed=2)
    (broken / "empty").write_bytes(b"x")
    uploader.submit(broken, "r/a")
    uploader.submit(good, "r/b")
    assert uploader.flush(20) == ()
    assert not uploader.uploading(broken)
    assert "1 bytes, its manifest says 0" in uploader.failed()[broken]
    assert any("cannot be uploaded" in text for text in notes(told, "warning"))
    assert "kiln/r/b/manifest.json" in place.names()
    assert "kiln/r/a/manifest.json" not in place.names()


def test_closing_in_an_outage_ends_soon_and_names_what_is_not_there(
    proxy: Proxy, uploader: Uploader, folder: Make, told: list[Event]
) -> None:
    proxy.faults.silent = True
    here = folder("a")
    uploader.submit(here, "r/a")
    began = time.monotonic()
    assert uploader.flush(0.3) == (here,)
    assert uploader.close() == (here,)
    assert time.monotonic() - began < 6
    assert notes(told, "warning")[-1] == "not uploaded yet: a"
    assert not uploader.submit(folder("b"), "r/b")


@pytest.mark.full
def test_closing_while_a_slow_upload_runs_ends_soon(place: Place, proxy: Proxy, folder: Make) -> None:
    store = place.store(proxy.port)
    store.traits()
    proxy.faults.up_bytes_s = 200_000
    here = folder("a", big=8 << 20)
    with Uploader(store) as running:
        running.submit(here, "r/a")
        assert running.flush(1.5) == (here,)
        began = time.monotonic()
        assert running.close() == (here,)
    assert time.monotonic() - began < 6
    assert "kiln/r/a/manifest.json" not in place.names()


def test_a_sink_that_fails_does_not_end_the_uploads(place: Place, folder: Make) -> None:
    def full_disk(_event: Event) -> None:
        raise OSError(28, "No space left on device")

    with Uploader(place.store(), on_event=full_disk) as running:
        running.submit(folder("a", big=100), "r/a")
        running.flush(10)
    assert "kiln/r/a/manifest.json" in place.names()
