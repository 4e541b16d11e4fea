"""A real S3 server on loopback (moto), made as strict as S3 is: it checks SHA-256, and conditional writes are atomic.

`python -m tests.core.remote.s3_server` runs it as a process of its own and prints its port.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Environ = dict[str, Any]


@dataclass
class Manners:
    """What the server does with what a store may not know, and what it was asked."""

    sums: str = "checked"  # or "ignored", "refused"
    conditions: str = "kept"  # or "ignored", "refused"
    garble: int = 0  # the next bodies of so many PUTs arrive with one bit changed
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    trailers: list[str] = field(default_factory=list)  # of the PUTs whose sum came after the body, as over TLS

    def sent(self, method: str, ending: str) -> int:
        """Return how often a key that ends so was asked for with a method."""
        return sum(1 for each in self.asked if each[0] == method and each[1].endswith(ending))


class Strict:
    """What S3 does and moto does not."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._app = DomainDispatcherApplication(create_backend_app)
        self._writing = threading.Lock()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        method, length = environ["REQUEST_METHOD"], int(environ.get("CONTENT_LENGTH") or 0)
        self._manners.asked.append((method, environ["PATH_INFO"], length))
        if method != "PUT":
            try:
                return self._app(environ, start_response)
            except KeyError:  # moto's, for an upload that was aborted
                return _say(start_response, "404 Not Found", "NoSuchUpload")
        if "HTTP_X_AMZ_TRAILER" in environ:
            self._manners.trailers.append(environ["HTTP_X_AMZ_TRAILER"])
        if environ.pop("HTTP_TRANSFER_ENCODING", "") == "chunked":
            body = environ["wsgi.input"].read()
            environ["CONTENT_LENGTH"] = str(len(body))
        else:
            body = environ["wsgi.input"].read(length)
        if self._manners.garble > 0 and length:
            self._manners.garble -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        environ["wsgi.input"] = io.BytesIO(body)
        if said := self._trouble(environ, body):
            return _say(start_response, *said)
        if self._manners.conditions == "ignored":
            environ.pop("HTTP_IF_MATCH", None)
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self._writing:
            return list(self._app(environ, start_response))

    def _trouble(self, environ: Environ, body: bytes) -> tuple[str, str] | None:
        digest = hashlib.sha256(body).digest()
        conditional = "HTTP_IF_MATCH" in environ or "HTTP_IF_NONE_MATCH" in environ
        if conditional and self._manners.conditions == "refused":
            return "501 Not Implemented", "NotImplemented"
        told = environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")
        if told and self._manners.sums == "refused":
            return "400 Bad Request", "InvalidRequest"
        if told and self._manners.sums == "checked" and told != base64.b64encode(digest).decode():
            return "400 Bad Request", "BadDigest"
        signed = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        if re.fullmatch("[0-9a-f]{64}", signed) and signed != digest.hex():
            return "400 Bad Request", "XAmzContentSHA256Mismatch"
        return None


def _say(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        return


def serve(manners: Manners, certificate: tuple[str, str] | None = None) -> Any:
    """Return a server that listens, with TLS for a certificate and its key; the caller runs and shuts it down."""
    return make_server("127.0.0.1", 0, Strict(manners), threaded=True, request_handler=_Quiet, ssl_context=certificate)


if __name__ == "__main__":
    _server = serve(Manners())
    sys.stdout.write(f"{_server.server_port}\n")
    sys.stdout.flush()
    _server.serve_forever()
