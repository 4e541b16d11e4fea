"""Folders to send, and no key of whoever runs the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.train import sealed
from tests.core.remote.place import KEY as KEY  # noqa: PLC0414 - the tests of this room take all from here
from tests.core.remote.place import SECRET_KEY as SECRET_KEY  # noqa: PLC0414
from tests.core.remote.place import Place as Place  # noqa: PLC0414


@pytest.fixture(autouse=True)
def no_other_keys(keys: None) -> None:
    """Every test of this room has the keys."""


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "step-00000010", seed: int = 1, **sizes: int) -> Path:
        made = tmp_path / "here" / name
        for path, size in (sizes or {"model.safetensors": 70_000, "state/rng.bin": 300, "empty": 0}).items():
            (made / path).parent.mkdir(parents=True, exist_ok=True)
            (made / path).write_bytes((seed.to_bytes(4, "big") + path.encode()) * (size // (4 + len(path)) + 1))
            os.truncate(made / path, size)
        sealed.seal(made, {"step": "10"})
        return made

    return make
