"""Alerts against real channels: a real HTTP server, a dead port, a server that never answers, a value that is no URL."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.alerts.message import message_for
from core.alerts.send import alert
from core.config import AlertConfig
from core.events import Event, Note, RunFailed, RunFinished, TrainingDecided

FINISHED = RunFinished(run_id="r1", profile="demo", summary="7 stages in 200 s")
FAILED = RunFailed(run_id="r1", profile="demo", code="data-empty", error="[data-empty] 0 records\nFix: add some")


class Channel(BaseHTTPRequestHandler):
    received: list[dict[str, str]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).received.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    Channel.received = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Channel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GOOD_CHANNEL", f"json://127.0.0.1:{server.server_port}/topsecretpath")
        yield Channel.received
        server.shutdown()


def warnings(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and event.level == "warning"]


@pytest.mark.parametrize(("event", "kind"), [(FINISHED, "success"), (FAILED, "failure")])
def test_a_run_s_end_reaches_a_real_channel(
    channel: list[dict[str, str]], events: list[Event], event: RunFinished | RunFailed, kind: str
) -> None:
    assert alert(event, AlertConfig(url_envs=("GOOD_CHANNEL",)), events.append) == ()
    assert [message["type"] for message in channel] == [kind]
    assert "demo" in channel[0]["title"]
    assert events == []


def test_a_failure_tells_its_error_and_its_run(channel: list[dict[str, str]], events: list[Event]) -> None:
    alert(FAILED, AlertConfig(url_envs=("GOOD_CHANNEL",)), events.append)
    assert "[data-empty] 0 records" in channel[0]["message"]
    assert "r1" in channel[0]["message"]


def test_nobody_is_told_when_no_channel_is_named_or_the_event_is_not_worth_it(events: list[Event]) -> None:
    assert alert(FINISHED, AlertConfig(), events.append) == ()
    assert message_for(Note(stage=None, text="a line")) is None
    assert message_for(TrainingDecided(decision="skipped", step=9, to_step=8, text="rows left out: r1")) is None


def test_a_training_that_goes_back_is_told_with_what_was_decided() -> None:
    text = "step 9: loss is a spike; back to step 8; learning rate x 0.5"
    message = message_for(TrainingDecided(decision="rolled-back", step=9, to_step=8, text=text, level="warning"))
    assert message is not None
    assert (message.title, message.body, message.kind) == ("edgekiln: the training went back to step 8", text, "warning")


def test_dead_channels_are_named_without_their_urls_and_the_others_still_hear(
    channel: list[dict[str, str]], events: list[Event], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("DEAD_CHANNEL", f"json://user:hunter2@127.0.0.1:{free.getsockname()[1]}")
    monkeypatch.setenv("NO_URL", "hunter2 is no URL")
    monkeypatch.delenv("UNSET_CHANNEL", raising=False)
    config = AlertConfig(url_envs=("DEAD_CHANNEL", "NO_URL", "UNSET_CHANNEL", "GOOD_CHANNEL"))
    assert set(alert(FINISHED, config, events.append)) == {"DEAD_CHANNEL", "NO_URL", "UNSET_CHANNEL"}
    assert len(channel) == 1
    assert len(warnings(events)) == 3
    assert "hunter2" not in " ".join(warnings(events)) + caplog.text


def test_a_channel_that_never_answers_is_waited_for_no_longer_than_the_timeout(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SILENT_CHANNEL", f"json://127.0.0.1:{silent.getsockname()[1]}")
        began = time.perf_counter()
        failed = alert(FINISHED, AlertConfig(url_envs=("SILENT_CHANNEL",), timeout_s=0.5), events.append)
        assert time.perf_counter() - began < 3
    assert failed == ("SILENT_CHANNEL",)
    assert "within 0.5 s" in warnings(events)[0]
