"""One request at a time to a cloud's metadata service: a deadline for the whole exchange, a bound on bytes, no redirects.

Another thread can cut an exchange that is under way. The clouds' paths and headers are not here.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from core.contract import Contract

LINK_LOCAL = "169.254.169.254"  # the same for AWS, GCP and Azure
_MAX_BYTES = 1 << 18  # Azure repeats 64 KiB of user data, in base64


class Answer(Contract):
    """What a metadata service said; header names are in lower case."""

    status: int
    text: str
    headers: dict[str, str]


class MetadataService:
    """A service at `host:port`; an address, not a name, or looking it up has no deadline."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], *, timeout_s: float, body: bytes | None = None
    ) -> Answer:
        """Return the answer, a redirect as it is.

        OSError, http.client.HTTPException or ValueError when there is no whole one in time.
        """
        deadline = time.perf_counter() + timeout_s
        connection = http.client.HTTPConnection(self._address)
        wire = self._connect(connection.host, connection.port, deadline)
        try:
            connection.sock = wire
            connection.request(method, path, body=body, headers=dict(headers))
            with connection.getresponse() as answer:
                text = answer.read().decode(errors="replace")
                told = {name.lower(): value for name, value in answer.getheaders()}
                return Answer(status=answer.status, text=text, headers=told)
        finally:
            self._let_go()

    def cut(self) -> None:
        """End what is under way, with an OSError in the thread that waits for it, and refuse everything after."""
        with self._lock:
            self._is_cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _connect(self, host: str, port: int, deadline: float) -> _Wire:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with self._lock:
            if self._is_cut:
                raise ConnectionAbortedError("the exchange was cut")
            self._socket = socket.socket(family, kind, protocol)
        wire = _Wire(self._socket, deadline)
        try:
            wire.connect(address)
        except OSError:
            self._let_go()
            raise
        return wire

    def _let_go(self) -> None:
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None


class _Wire(io.RawIOBase):
    """A socket as http.client uses one, every operation of which ends by the same deadline."""

    def __init__(self, plain: socket.socket, deadline: float) -> None:
        self._plain = plain
        self._deadline = deadline
        self._left_bytes = _MAX_BYTES

    def connect(self, address: tuple[Any, ...]) -> None:
        self._hurry().connect(address)

    def sendall(self, data: bytes) -> None:
        self._hurry().sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        del mode  # http.client only reads
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # a memoryview from BufferedReader; typeshed's Buffer has no length
        count = self._hurry().recv_into(buffer, min(len(buffer), self._left_bytes + 1))
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise ValueError(f"the answer is > {_MAX_BYTES} bytes")
        return count

    def close(self) -> None:
        """Leave the socket to its owner: http.client closes before it has read an answer that ends the connection."""

    def _hurry(self) -> socket.socket:
        left_s = self._deadline - time.perf_counter()
        if left_s <= 0:
            raise TimeoutError("no whole answer in time")
        self._plain.settimeout(left_s)
        return self._plain
