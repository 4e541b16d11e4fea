"""Fixtures every part shares: a workspace, an ear for events, the built toolchain, the default model."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from core.events import Event
from core.workspace import Workspace, open_workspace


def pytest_configure() -> None:
    """Let children hear Ctrl-C even where the tests run in the background of a shell, which has it ignored and inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares costly fixtures in one process, a file's tests and all of e2e, and begin with the longest."""
    for item in items:
        group = "e2e" if "e2e" in item.path.parts else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: "e2e" not in item.path.parts)


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
