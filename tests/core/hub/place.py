"""The fixture of all who ask a hub: one on loopback, and no token, cache or setting of whoever runs the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import pytest

from core.contract import Contract
from core.events import OnEvent
from tests.core.hub.hub_server import TOKEN, Hub, serving


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # its store speaks a protocol of its own
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    with serving() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        yield made


@pytest.fixture
def hub_here(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, asked by this process: starting one for each question takes longer than all questions together."""

    def call(
        module: str,
        request: Contract,
        _result: type[Contract],
        folder: Path,
        on_event: OnEvent,
        *,
        timeout_s: float,
        env: Mapping[str, str],
    ) -> Contract:
        assert timeout_s > 0
        folder.mkdir(parents=True, exist_ok=True)
        with monkeypatch.context() as within:
            for name, value in env.items():
                within.setenv(name, value)
            made: Contract = import_module(module).work(request, folder, on_event)
        return made

    for client in ("core.hub.upload.upload", "core.hub.download.download"):
        monkeypatch.setattr(f"{client}.call", call)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    return hub
