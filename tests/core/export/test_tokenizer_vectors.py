"""The way the gate tokenises agrees with the vectors llama.cpp ships: the ids the published tokenizers give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "tokenise_vectors.py"
FAST = {"llama-spm", "phi-3", "starcoder"}

pytestmark = pytest.mark.model


def vectors(toolchain) -> dict[str, Path]:
    models = toolchain.source / "models"
    expected = sorted(models.glob("ggml-vocab-*.gguf.out"))
    return {path.name.removeprefix("ggml-vocab-").removesuffix(".gguf.out"): path.with_suffix("") for path in expected}


def disagreeing(toolchain, paths: list[Path]) -> dict[str, list[str]]:
    """Return, for each vocabulary, the texts that get other ids than the shipped ones."""
    argv = [sys.executable, str(SCRIPT), toolchain.model_dump_json(), *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    wrong: dict[str, list[str]] = {}
    for name, told in json.loads(done.stdout).items():
        lines = (paths[0].parent / f"{name}.out").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        expected = [[int(number) for number in line.split()] for line in lines]
        assert len(expected) == len(told) >= 40
        wrong[name] = [text for (text, ids), right in zip(told, expected, strict=True) if ids != right]
    return wrong


def test_a_few_vocabularies_agree_on_every_text(toolchain) -> None:
    paths = [path for name, path in vectors(toolchain).items() if name in FAST]
    assert disagreeing(toolchain, paths) == {path.name: [] for path in paths}
    assert len(paths) == len(FAST)


@pytest.mark.full
def test_every_vocabulary_agrees_on_every_text(toolchain) -> None:
    paths = list(vectors(toolchain).values())
    assert len(paths) >= 15
    assert disagreeing(toolchain, paths) == {path.name: [] for path in paths}
