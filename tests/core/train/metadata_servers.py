"""Metadata services of AWS, GCP and Azure on the loopback interface: they demand and refuse what the real ones document."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

AZURE_NAME = "trainer-7"
Said = tuple[int, str, dict[str, str]]


@dataclass(frozen=True)
class Asked:
    """A request; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Cloud(ThreadingHTTPServer):
    """What all three share: a log of requests, a state that tests change, and faults in place of answers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.fault: tuple[int, bytes] | None = None
        self.ahead_s = 0.0  # of this machine's clock
        self.changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, asked: Asked) -> Said:
        raise AssertionError(f"no such service: {asked}")


class AwsCloud(Cloud):
    """IMDSv2: a token by PUT with its time to live; 401 without one that is valid; 404 while there is no notice."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens: dict[str, float] = {}
        self.action: str | None = None
        self.rebalance: str | None = None

    def notify(self, seconds: float = 120, action: str = "terminate") -> None:
        self.action = json.dumps({"action": action, "time": zulu(seconds)})

    def withdraw(self) -> None:
        self.action = None

    def answer(self, asked: Asked) -> Said:
        if (asked.method, asked.path) == ("PUT", "/latest/api/token"):
            ttl_s = asked.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
            if not ttl_s.isdigit() or not 1 <= int(ttl_s) <= 21_600:
                return 400, "", {}
            token = f"token-{len(self.tokens) + 1}=="
            self.tokens[token] = time.monotonic() + int(ttl_s)
            return 200, token, {}
        if self.tokens.get(asked.headers.get("x-aws-ec2-metadata-token", ""), 0) < time.monotonic():
            return 401, "", {}
        told = {
            "/latest/meta-data/spot/instance-action": self.action,
            "/latest/meta-data/events/recommendations/rebalance": self.rebalance,
        }.get(asked.path)
        return (404, "<html>not found</html>", {}) if told is None else (200, told, {})


class GcpCloud(Cloud):
    """Compute Engine: 403 without its header; `wait_for_change` holds the request until the value's ETag differs."""

    def __init__(self) -> None:
        super().__init__()
        self.values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self.held = 0

    def notify(self, seconds: float = 30) -> None:
        del seconds  # Compute Engine names no time
        self.set("preempted", "TRUE")

    def withdraw(self) -> None:
        self.set("preempted", "FALSE")

    def set(self, key: str, value: str) -> None:
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def answer(self, asked: Asked) -> Said:
        if asked.headers.get("metadata-flavor") != "Google":
            return 403, "Missing Metadata-Flavor:Google header.", {}
        parts = urlsplit(asked.path)
        key = parts.path.removeprefix("/computeMetadata/v1/instance/")
        if asked.method != "GET" or key not in self.values:
            return 404, "", {}
        wish = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if wish.get("wait_for_change") == "true":
            self.held += 1
            with self.changed:
                self.changed.wait_for(
                    lambda: self.etag(key) != wish.get("last_etag"), timeout=float(wish.get("timeout_sec", "60"))
                )
        return 200, self.values[key], {"Metadata-Flavor": "Google", "ETag": self.etag(key)}

    def etag(self, key: str) -> str:
        return f"{hash((key, self.values[key])) & 0xFFFFFFFF:08x}"


class AzureCloud(Cloud):
    """Scheduled events: 400 without `Metadata: true`; an approved event starts; a withdrawn one is listed no more."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, object]] = []
        self.name: str | None = AZURE_NAME
        self.approved: list[str] = []

    def notify(self, seconds: float = 30, kind: str = "Preempt", resources: tuple[str, ...] = (AZURE_NAME,)) -> None:
        self.events.append(
            {
                "EventId": f"event-{len(self.events) + 1}",
                "EventType": kind,
                "ResourceType": "VirtualMachine",
                "Resources": list(resources),
                "EventStatus": "Scheduled",
                "NotBefore": format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True),
                "Description": "",
                "EventSource": "Platform",
                "DurationInSeconds": -1,
            }
        )

    def withdraw(self) -> None:
        self.events.clear()

    def answer(self, asked: Asked) -> Said:
        if asked.headers.get("metadata") != "true" or "x-forwarded-for" in asked.headers:
            return 400, '{"error": "Bad request. Required metadata header not specified"}', {}
        parts = urlsplit(asked.path)
        if parts.path == "/metadata/instance/compute/name":
            return (500, "", {}) if self.name is None else (200, self.name, {})
        if parts.path != "/metadata/scheduledevents" or "api-version" not in parse_qs(parts.query):
            return 404, "", {}
        if asked.method == "POST":
            for request in json.loads(asked.body)["StartRequests"]:
                self.approved.append(request["EventId"])
            for event in self.events:
                if event["EventId"] in self.approved:
                    event |= {"EventStatus": "Started", "NotBefore": ""}
            return 200, "", {}
        return 200, json.dumps({"DocumentIncarnation": 1, "Events": self.events}), {}


class _Handler(BaseHTTPRequestHandler):
    server: Cloud
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the server's own signature
        pass

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string((timestamp or time.time()) + self.server.ahead_s)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the watcher was closed while the answer was held
            self.close_connection = True

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.server.fault is not None:
            status, raw, more = *self.server.fault, {}
        else:
            status, text, more = self.server.answer(Asked(self.command, self.path, headers, body))
            raw = text.encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(raw))} | more).items():
            self.send_header(name, value)
        if status == 302:
            self.send_header("Location", raw.decode())
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()


@contextmanager
def served(cloud: Cloud) -> Iterator[Cloud]:
    """Serve until the block ends."""
    thread = threading.Thread(target=cloud.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield cloud
    finally:
        cloud.shutdown()
        cloud.server_close()
        thread.join()


def zulu(seconds: float) -> str:
    """Return the time so many seconds from now as EC2 writes it, without fractions."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
