"""A real HTTP server that plays a teacher by a script, and a way to make a Dataset without the data stage."""

from __future__ import annotations

import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.config import DataConfig
from core.contract import Stage
from core.data.record import PromptRow
from core.data.rows_file import write_rows
from core.events import ignore
from core.files import write_json_lines
from core.nouns import Dataset
from core.stage import Facts, Order, produce
from core.workspace import Workspace


@dataclass
class Step:
    """One answer of the server. Without anything set it is a good one."""

    status: int = 200
    text: str | None = None
    finish_reason: str = "stop"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    drop_after: int | None = None
    wait_s: float = 0.0
    drip_s: float = 0.0  # pause before each ten bytes of the body
    twice: bool = False  # the whole answer a second time, on the same connection


@dataclass
class Sent:
    """One request as the server saw it."""

    key: str
    body: dict[str, Any]

    @property
    def last(self) -> str:
        return self.body["messages"][-1]["content"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up; they are killed on purpose."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class ScriptedTeacher:
    """Plays `script[prompt]` step by step for requests whose last message contains the prompt, then `otherwise`."""

    def __init__(self) -> None:
        self.script: dict[str, list[Step]] = {}
        self.otherwise = Step()
        self.sent: list[Sent] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def speak_tls(self, certificate: str, key: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def next_step(self, request: Sent) -> Step:
        with self._lock:
            self.sent.append(request)
            for prompt, steps in self.script.items():
                if prompt in request.last and steps:
                    return steps.pop(0)
            return self.otherwise

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        teacher = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_request(self, *_: object) -> None:
                return

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Sent(self.headers.get("Idempotency-Key", ""), body)
                teacher._count(1)
                step = teacher.next_step(request)
                time.sleep(step.wait_s)
                teacher._count(-1)
                self._play(step, request)

            def _play(self, step: Step, request: Sent) -> None:
                payload = step.body if step.body is not None else _payload(step, request)
                self.send_response(step.status)
                self.send_header("Content-Type", step.content_type)
                self.send_header("Content-Length", str(len(payload)))
                for name, value in step.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if step.drop_after is not None:
                    payload, self.close_connection = payload[: step.drop_after], True
                for start in range(0, len(payload), 10) if step.drip_s else ():
                    self.wfile.write(payload[start : start + 10])
                    time.sleep(step.drip_s)
                self.wfile.write(b"" if step.drip_s else payload * (1 + step.twice))

        return Handler

    def _count(self, change: int) -> None:
        with self._lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)


def _payload(step: Step, request: Sent) -> bytes:
    if step.status != 200:
        return json.dumps({"error": {"message": f"status {step.status}", "type": "x", "code": step.text}}).encode()
    text = step.text if step.text is not None else f"Answer to <{request.last}>."
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": step.finish_reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@pytest.fixture
def server() -> Iterator[ScriptedTeacher]:
    teacher = ScriptedTeacher()
    yield teacher
    teacher.close()


@pytest.fixture
def step() -> type[Step]:
    return Step


@pytest.fixture
def make_dataset() -> Callable[[Workspace, Sequence[PromptRow]], Dataset]:
    def make(workspace: Workspace, rows: Sequence[PromptRow]) -> Dataset:
        records = [row.model_dump(mode="json") for row in rows]

        def work(content: Path) -> Facts:
            write_rows(content / "rows.parquet", records)
            write_json_lines(content / "rejects.jsonl", [])
            held_out = sum(row.split == "held_out" for row in rows)
            counts = {"rows": len(rows), "train_rows": len(rows) - held_out, "held_out_rows": held_out, "rejected": 0}
            return Facts(own={"sources": (), "findings": (), **counts})

        inputs = tuple(row.model_dump_json() for row in rows)
        order = Order(noun=Dataset, stage=Stage.DATA, version=1, config=DataConfig(sources=("test",)), inputs=inputs)
        return produce(order, workspace, ignore, work)

    return make


@pytest.fixture
def make_rows() -> Callable[..., list[PromptRow]]:
    def make(count: int, **more: Any) -> list[PromptRow]:
        plain = {"system": None, "context": None, **more}
        return [
            PromptRow(row_id=f"r{i:03}", split="held_out" if i % 4 == 3 else "train", user=f"Question {i:03}?", **plain)
            for i in range(count)
        ]

    return make
