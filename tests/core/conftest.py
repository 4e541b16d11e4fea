"""Fixtures of the core tests: tiny real students, each built once in a process of its own for all processes of a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

BUILDER = Path(__file__).parent / "build_tiny_student.py"


def _built(temporary: pytest.TempPathFactory, name: str, *tokenizer_folder: str) -> Path:
    """Return a student's folder, built by the process of the session that comes first."""
    own = temporary.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(place / f"{name}.lock"):
        if not (place / name).exists():
            argv = [sys.executable, str(BUILDER), str(place / f"{name}.part"), *tokenizer_folder]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (place / f"{name}.part").rename(place / name)
    return place / name


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with a tokenizer of 512 entries and a chat template, as a Hugging Face folder."""
    return _built(tmp_path_factory, "tiny-student")


@pytest.fixture(scope="session")
def smollm_folder(toolchain) -> Path:
    """The default model as a Hugging Face folder."""
    from core import catalogue
    from core.train import student

    return student.folder(catalogue.model("smollm2-135m-instruct"))


@pytest.fixture(scope="session")
def tiny_smollm_student(smollm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama with SmolLM2's tokenizer, which llama.cpp's converter knows."""
    return _built(tmp_path_factory, "tiny-smollm-student", str(smollm_folder))
