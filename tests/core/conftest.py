"""Fixtures of the core tests: tiny real students, each built once a session in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BUILDER = Path(__file__).parent / "build_tiny_student.py"


def _build(target: Path, *tokenizer_folder: str) -> Path:
    done = subprocess.run(
        [sys.executable, str(BUILDER), str(target), *tokenizer_folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a tokenizer of 512 entries and a chat template, as a Hugging Face folder."""
    return _build(tmp_path_factory.mktemp("tiny") / "student")


@pytest.fixture(scope="session")
def smollm_folder(toolchain) -> Path:
    """The default model as a Hugging Face folder."""
    from core import catalogue
    from core.train import student

    return student.folder(catalogue.model("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def tiny_smollm_student(smollm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with SmolLM2's tokenizer, which llama.cpp's converter knows."""
    return _build(tmp_path_factory.mktemp("tiny-smollm") / "student", str(smollm_folder))
