"""`edgekiln export`: which formats it makes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from flows.cli import main

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_onnx_is_refused_with_the_versions_that_keep_it_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.run(["export", "--to", "onnx", "--workspace", str(tmp_path / "none")]) == 4
    told = " ".join(capsys.readouterr().err.split())
    pinned = next(text for text in PROJECT["optional-dependencies"]["train"] if text.startswith("transformers=="))
    assert "needs transformers < 4.58" in told
    assert f"pins {pinned.replace('==', ' ')}" in told
    assert "virtual environment of its own" in told
    assert not (tmp_path / "none").exists()


def test_a_format_nobody_knows_is_a_mistake_of_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.run(["export", "--to", "coreml", "--workspace", str(tmp_path / "none")]) == 2
    assert "coreml" in capsys.readouterr().err
