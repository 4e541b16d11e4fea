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


_USES_EVERY_CORE = ("e2e", "train", "bench", "export", "label", "trial")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares costly fixtures in one process, and begin with the longest: all that uses every core, one by one.

    Two OpenMP programs side by side wait for each other's threads and take several times as long.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group("cores" if _uses_every_core(item) else item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: not _uses_every_core(item))


def _uses_every_core(item: pytest.Item) -> bool:
    return item.get_closest_marker("model") is not None or item.path.parent.name in _USES_EVERY_CORE


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
