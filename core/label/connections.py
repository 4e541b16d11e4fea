"""The connections to an endpoint: they can be cut at once, and an answer is bounded in time and in size as a whole."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import httpx2

MAX_ANSWER_BYTES = 64 << 20  # the longest answer with log-probabilities is some 10 MB
PLAIN = "identity"
_BEGAN = "edgekiln.began"
_OPENED = ("connect_tcp.complete", "start_tls.complete")  # TLS takes the first's socket over and gives another


class Connections:
    """The client's open sockets: closing a client does not wake the threads that wait for its answers, a shutdown does."""

    def __init__(self, within_s: float) -> None:
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._within_s = within_s

    def watch(self, request: httpx2.Request) -> None:
        """Have the transport tell of each connection it opens (httpx2's `trace` request extension)."""
        request.extensions["trace"] = self._note
        request.extensions[_BEGAN] = time.perf_counter()

    def bound(self, response: httpx2.Response) -> None:
        """Have the body end in time: httpx2's own timeout starts anew with every byte that drips in.

        A body that is packed although none was asked for is refused: a small one may unpack to any size.
        """
        import httpx2

        if (packing := response.headers.get("content-encoding", PLAIN)) != PLAIN:
            raise httpx2.ReadError(f"the answer is packed as {packing[:20]}, unasked", request=response.request)
        began = response.request.extensions.get(_BEGAN, time.perf_counter())
        response.stream = cast(Any, _bounded())(response.stream, response.request, began + self._within_s)

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            known_now = list(self._sockets)
        for known in known_now:
            with contextlib.suppress(OSError):
                # not that of a socket with TLS, which takes away what the thread that waits is reading with
                socket.socket.shutdown(known, socket.SHUT_RDWR)

    def _note(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(_OPENED):
            opened = info["return_value"].get_extra_info("socket")
            with self._lock:  # requests open connections from many threads, and one that is forgotten is never cut
                self._sockets = [known for known in self._sockets if known.fileno() != -1] + [opened]


@cache
def _bounded() -> type[httpx2.SyncByteStream]:
    """Return the class of a body that raises after its deadline, and when it is too large; made where httpx2 is there."""
    import httpx2

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: httpx2.SyncByteStream, request: httpx2.Request, deadline: float) -> None:
            self._stream = stream
            self._request = request
            self._deadline = deadline

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self._stream:
                size += len(chunk)
                if time.perf_counter() > self._deadline:
                    raise httpx2.ReadTimeout("the answer drips", request=self._request)
                if size > MAX_ANSWER_BYTES:
                    raise httpx2.ReadError(f"the answer is over {MAX_ANSWER_BYTES >> 20} MiB", request=self._request)
                yield chunk

        def close(self) -> None:
            self._stream.close()

    return Bounded
