"""A small TCP proxy before the store: it refuses, delays, cuts in the middle, limits the rate, or answers in its place."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass, field


@dataclass
class Faults:
    """What happens to connections made from now on; each is taken back by setting it to its default."""

    refuse: bool = False  # connections are reset at once
    silent: bool = False  # connections are taken and nothing is ever answered
    delay_s: float = 0.0  # before the first byte goes up
    up_bytes_s: float = 0.0
    down_bytes_s: float = 0.0
    cut_up: list[int] = field(default_factory=list)  # the next connections die after so many bytes sent
    cut_down: list[int] = field(default_factory=list)  # ... or received
    lose_answers: int = 0  # the next so many conditional writes reach the store, their answers are lost
    says: list[bytes] = field(default_factory=list)  # answers in the store's place, one request each


def s3_error(status: str, code: str, *headers: str, more: str = "") -> bytes:
    """Return an answer as S3 words it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>said by the test</Message>{more}</Error>"
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/xml",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return ("\r\n".join(head) + "\r\n\r\n" + body).encode()


class Proxy:
    """Listens on loopback and hands on to `upstream`; use as a context."""

    def __init__(self, upstream: int) -> None:
        self.faults = Faults()
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.drop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def drop(self) -> None:
        """Reset every connection that is open, as pulling the plug does."""
        for each in list(self._open):
            _reset(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        faults = self.faults
        if faults.refuse:
            return _reset(client)
        if faults.silent:
            return None
        with contextlib.suppress(OSError):
            head = client.recv(1 << 16)
            if faults.says and head:
                return self._say(client, faults.says.pop(0))
            time.sleep(faults.delay_s)
            server = socket.create_connection(("127.0.0.1", self._upstream))
            self._open.add(server)
            up = faults.cut_up.pop(0) if faults.cut_up else None
            down = faults.cut_down.pop(0) if faults.cut_down else None
            if faults.lose_answers and b"\r\nif-" in head.lower():
                faults.lose_answers, down = faults.lose_answers - 1, 0  # but for "100 Continue", which asks for the body
            back = threading.Thread(target=self._pump, args=(server, client, b"", down, "down_bytes_s"), daemon=True)
            back.start()
            self._pump(client, server, head, up, "up_bytes_s")
        return None

    def _piece(self, rate: str) -> int:
        """Return how much is read at once: at a low rate little, so that it drips."""
        limit = getattr(self.faults, rate)
        return min(1 << 14, max(1, int(limit / 20))) if limit else 1 << 14

    def _say(self, client: socket.socket, answer: bytes) -> None:
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(5)
        with contextlib.suppress(OSError):
            while client.recv(1 << 16):
                pass
        client.close()

    def _pump(self, source: socket.socket, target: socket.socket, first: bytes, cut: int | None, rate: str) -> None:
        passed, data = 0, first
        with contextlib.suppress(OSError):
            while data or (data := source.recv(self._piece(rate))):
                if cut is not None and passed + len(data) > cut and not data.startswith(b"HTTP/1.1 100 "):
                    target.sendall(data[: cut - passed])
                    _reset(source)
                    _reset(target)
                    return
                target.sendall(data)
                passed += 0 if data.startswith(b"HTTP/1.1 100 ") else len(data)
                if limit := getattr(self.faults, rate):
                    time.sleep(len(data) / limit)
                data = b""
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _reset(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.shutdown(socket.SHUT_RDWR)
    each.close()
