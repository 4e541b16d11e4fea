"""A Prefect server that lives as long as one run: in a session of its own, so that Ctrl-C reaches the run alone, and dying with it.

`python -m flows.cli.passing_server DESCRIPTOR` is the server's side; the socket it is handed listens already.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

from core.config import cache_folder
from core.errors import ServiceError
from core.process import beside, python_module
from core.worker_process import die_with_parent

_STARTUP_TIMEOUT_S = 120.0
_EPHEMERAL = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}


@contextmanager
def passing_server() -> Iterator[str]:
    """Start a server and yield the URL of its API; it may not answer yet, see `wait_for`.

    ServiceError when Prefect's folder cannot be written.
    """
    _require_home()
    with ExitStack() as held:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
            environment = {**_EPHEMERAL, "PREFECT_SERVER_API_PORT": str(port), "EDGEKILN_PARENT": str(os.getpid())}
            argv = python_module("flows.cli.passing_server", str(listening.fileno()))
            held.enter_context(beside(argv, log=_log(), env=environment, pass_fds=(listening.fileno(),)))
        yield f"http://127.0.0.1:{port}/api"


def wait_for(url: str) -> None:
    """Wait until a passing server answers; ServiceError names its log when it does not."""
    try:
        urlopen(f"{url}/health", timeout=_STARTUP_TIMEOUT_S).close()  # noqa: S310 - the server started here
    except OSError as error:
        raise ServiceError(
            f"the Prefect server of this run did not come up within {_STARTUP_TIMEOUT_S:g} s: {error}",
            remedy=f"Read {_log()}; or start one by hand with `prefect server start` and set PREFECT_API_URL.",
        ) from error


def _log() -> Path:
    return cache_folder() / "logs" / "prefect-server.log"


def _require_home() -> None:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    probe = home / f".probe-{os.getpid()}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ServiceError(
            f"Prefect's folder {home} cannot be written: {error.strerror}",
            remedy="Name one you may write: export PREFECT_HOME=/path",
        ) from error


def main() -> None:
    """Serve on the socket that was handed over."""
    die_with_parent()
    import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()
