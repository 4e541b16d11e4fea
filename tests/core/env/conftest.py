"""What tests of the doctor share: the board of the bench tests, and a context for a profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from core import config
from core.env.capability import Context
from core.env.roles import Role
from tests.core.bench.conftest import board as board  # noqa: PLC0414 - a fixture is found by its name


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    """Return a context of the demo profile with overrides, on a device whose card is made here."""

    def make(roles: tuple[Role, ...] = (Role.TRAINER,), ssh_host: str | None = None, **env: object) -> Context:
        overrides: dict[str, object] = {f"env.{key}": value for key, value in env.items()}
        if ssh_host is not None:
            (tmp_path / "devices").mkdir(exist_ok=True)
            (tmp_path / "devices" / "board.yaml").write_text(f"kind: ssh\nhost: {ssh_host}\nfolder: kiln\n")
            overrides["bench.device"] = "board"
        return Context(
            profile=config.load("demo", overrides),
            beside=tmp_path,
            roles=frozenset(roles),
            workspace=tmp_path / "workspace",
            cache=tmp_path / "cache",
        )

    return make
