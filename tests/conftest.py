"""Fixtures every part shares: a workspace, an ear for events, the built toolchain, the default model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from core.events import Event
from core.workspace import Workspace, open_workspace
from tests.core.hub.place import hub, hub_here  # noqa: F401 - fixtures, found by their names here
from tests.core.remote.place import keys, place, proxy, s3_server  # noqa: F401 - fixtures, found by their names here


def pytest_configure() -> None:
    """Let children hear Ctrl-C even where the tests run in the background of a shell, which has it ignored and inherited.

    And let OpenMP's threads wait asleep: those of a program beside another one spin for longer than they work.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# how long an example takes is the machine's affair; `make test-full` takes the profile that tries more of them
settings.register_profile("gate", deadline=None, max_examples=50)
settings.register_profile("full", deadline=None, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

_USE_EVERY_CORE = (
    "tests/e2e/",
    "tests/core/bench/",
    "tests/core/train/test_options",
    "tests/core/train/test_resume",
    "tests/core/train/test_several",
    "tests/core/train/test_student",
    "tests/core/train/test_supervision",
    "tests/core/train/test_train",
    "tests/core/env/trial/",
    "tests/core/label/test_in_process",
    "tests/core/label/test_serve",
    "tests/core/label/test_transformers",
)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep a file's tests in one process, so that costly fixtures are made once, and all that use every core in one.

    OpenMP programs side by side wait for each other's threads. The exports, which start many short programs, are a chain of
    their own: in one with the others they decide how long the whole takes.
    """
    return _ByCores(config, log)


class _ByCores(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/core/export/"):
            return "exports"
        return "every core" if nodeid.startswith(_USE_EVERY_CORE) else nodeid.partition("::")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(_USE_EVERY_CORE))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "workspace")


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture(scope="session")
def toolchain():
    from core import toolchain

    return toolchain.ensure()


@pytest.fixture(scope="session")
def default_gguf(toolchain) -> Path:
    from core import catalogue, models

    return models.fetch(catalogue.model("smollm2-135m-instruct"))
