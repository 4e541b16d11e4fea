"""A real HTTP server whose every answer is set by path: good, refusing, garbage, or dripping a byte at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Says:
    """One answer; `drip_s` waits before each byte, `hold_s` before the first."""

    body: Any = None
    status: int = 200
    raw: bytes | None = None
    drip_s: float = 0.0
    hold_s: float = 0.0

    @property
    def payload(self) -> bytes:
        return self.raw if self.raw is not None else json.dumps(self.body).encode()


@dataclass
class Service:
    """What the server says to `METHOD /path`, and what it was asked: path, headers, body."""

    port: int = 0
    says: dict[str, Says] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def service() -> Iterator[Service]:
    told, stop = Service(), threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(told, stop))
    server.daemon_threads = True
    told.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield told
    stop.set()
    server.shutdown()
    server.server_close()


def handler(told: Service, stop: threading.Event) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            told.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            says = told.says.get(f"{self.command} {self.path}", Says({"error": {"message": "no such path"}}, status=404))
            stop.wait(says.hold_s)
            try:
                send(self, says, stop)
            except OSError:
                return  # the client had enough, as it should

    return Handler


def send(answering: BaseHTTPRequestHandler, says: Says, stop: threading.Event) -> None:
    answering.send_response(says.status)
    answering.send_header("Content-Type", "application/json")
    answering.send_header("Content-Length", str(len(says.payload)))
    answering.end_headers()
    step = 1 if says.drip_s else len(says.payload)
    for start in range(0, len(says.payload), max(step, 1)):
        answering.wfile.write(says.payload[start : start + step])
        answering.wfile.flush()
        if says.drip_s and stop.wait(says.drip_s):
            return
