"""The flow on a real Prefect server: its form, its promotion in one transaction, and a server that starts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from core import config
from core.contract import Stage
from core.errors import FileTampered
from core.events import Event, RolledBack
from core.promote import current
from core.workspace import Workspace
from tests.core import published_chain

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.prefect,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # raised inside Prefect's own server
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def prefect_server() -> Iterator[None]:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def test_the_form_begins_with_the_profile_and_offers_what_is_shipped() -> None:
    from flows.distill import distill

    properties = distill.parameters.properties
    assert list(properties)[:7] == ["profile", "dataset", "student", "teacher", "preset", "quantisations", "device"]
    assert properties["profile"]["default"] == "demo"
    assert {"demo", "desktop", "pi5"} <= set(properties["profile"]["enum"])
    assert all("description" in field for field in properties.values())


def test_the_deployment_names_the_flow_and_its_schedule_sleeps() -> None:
    from flows.distill import distill

    deployment = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][0]
    file, name = deployment["entrypoint"].split(":")
    assert (ROOT / file).is_file()
    assert name == distill.name
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    assert set(deployment["parameters"]) | set(deployment["schedules"][0]["parameters"]) <= set(
        distill.parameters.properties
    )


def test_the_search_has_a_form_and_a_deployment_of_its_own() -> None:
    from flows.search import search

    properties = search.parameters.properties
    assert list(properties)[:5] == ["profile", "dataset", "student", "teacher", "trials"]
    assert all("description" in field for field in properties.values())
    deployment = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))["deployments"][1]
    assert deployment["entrypoint"].split(":") == ["flows/search.py", search.name]
    assert set(deployment["parameters"]) <= set(properties)


def test_a_model_that_fails_its_check_is_rolled_back_by_the_transaction(
    prefect_server: None, workspace: Workspace, events: list[Event]
) -> None:
    from prefect import flow
    from prefect.transactions import transaction

    from tasks.job import Job, listening
    from tasks.promote import promote, verify

    gguf, _ = published_chain.chain(workspace)
    (workspace.folder(Stage.EXPORT, gguf.artifact_id) / gguf.quantisations[0].path).write_bytes(b"tampered")
    job = Job("r1", workspace, config.load("demo"), ROOT, events.append)

    @flow
    def promotion() -> None:
        with transaction():
            promote(job, gguf)
            assert current(workspace, "demo") is not None
            verify(job)

    with pytest.raises(FileTampered), listening(events.append):
        promotion()
    assert current(workspace, "demo") is None
    assert not workspace.journal.exists()
    assert [type(event) for event in events][-1] is RolledBack


def test_the_server_starts_and_becomes_healthy(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            assert is_healthy(f"http://127.0.0.1:{port}/api/health"), (tmp_path / "log").read_text()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def is_healthy(url: str) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return answer.status == 200
        except OSError:
            time.sleep(0.3)
    return False
