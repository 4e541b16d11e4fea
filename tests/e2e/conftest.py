"""The small job, run once to its end; tests that change something work on a copy."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.whole_job import SMALL, WholeJob


class Finished:
    """A finished job, its document, and what the alert channel received."""

    def __init__(self, job: WholeJob, document: dict[str, Any], received: list[dict[str, str]]) -> None:
        self.job = job
        self.document = document
        self.received = received

    def copy(self, root: Path) -> WholeJob:
        """Return the same job in a copy of the workspace."""
        shutil.copytree(self.job.root, root)
        return WholeJob(self.job.profile, root, self.job.environment)


@pytest.fixture(scope="session")
def channel() -> Iterator[tuple[str, list[dict[str, str]]]]:
    received: list[dict[str, str]] = []

    class Channel(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Channel) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"json://127.0.0.1:{server.server_port}/a-secret-path", received
        server.shutdown()


@pytest.fixture(scope="session")
def place(
    tmp_path_factory: pytest.TempPathFactory, channel: tuple[str, list[dict[str, str]]]
) -> tuple[Path, dict[str, str]]:
    """Return the small profile's file and the environment of its runs: a Prefect database of their own, two channels."""
    folder = tmp_path_factory.mktemp("whole")
    profile = folder / "small.yaml"
    profile.write_text(SMALL + "alerts: {url_envs: [GOOD_CHANNEL, DEAD_CHANNEL], timeout_s: 5}\n", encoding="utf-8")
    channels = {"GOOD_CHANNEL": channel[0], "DEAD_CHANNEL": "json://127.0.0.1:9/another-secret-path"}
    return profile, {"PREFECT_HOME": str(folder / "prefect"), **channels}


@pytest.fixture(scope="session")
def finished(
    toolchain: object,
    default_gguf: Path,
    place: tuple[Path, dict[str, str]],
    channel: tuple[str, list[dict[str, str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Finished:
    profile, environment = place
    job = WholeJob(str(profile), tmp_path_factory.mktemp("finished") / "workspace", environment)
    return Finished(job, job.finish(), list(channel[1]))
