"""A Hugging Face folder as GGUF: llama.cpp's own converter, then llama-quantize. What the files are worth is judged elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.contract import Stage
from core.errors import ProcessFailed
from core.events import OnEvent, Progress
from core.export.section import TensorTypes
from core.process import run
from core.toolchain import Toolchain

_TICK_S = 1.0
_MIB = 1 << 20


def convert(folder: Path, target: Path, name: str, toolchain: Toolchain, on_event: OnEvent, *, timeout_s: float) -> None:
    """Write a Hugging Face folder as an F32 GGUF; `name` goes into its metadata. ProcessFailed with the converter's words."""
    script = toolchain.source / "convert_hf_to_gguf.py"
    argv = [sys.executable, str(script), str(folder), "--outfile", str(target), "--outtype", "f32", "--model-name", name]
    make(argv, target, "convert to GGUF", on_event, timeout_s)


@dataclass(frozen=True)
class Recipe:
    """How weights are rounded: with which importance matrix, and which parts to another type."""

    imatrix: Path | None = None
    tensor_types: TensorTypes = field(default_factory=TensorTypes)

    def arguments(self) -> list[str]:
        """Return llama-quantize's options."""
        types = self.tensor_types
        named = [("--tensor-type", "attn", types.attn), ("--tensor-type", "ffn", types.ffn)]
        options = [word for flag, part, kind in named if kind for word in (flag, f"{part}={kind}")]
        options += ["--token-embedding-type", types.embedding] if types.embedding else []
        options += ["--output-tensor-type", types.output] if types.output else []
        return options + (["--imatrix", str(self.imatrix)] if self.imatrix else [])


_PLAIN = Recipe()


def quantise(
    source: Path,
    target: Path,
    kind: str,
    toolchain: Toolchain,
    on_event: OnEvent,
    *,
    timeout_s: float,
    recipe: Recipe = _PLAIN,
) -> None:
    """Write a GGUF of a type such as Q4_K_M from an F32 one; the bytes do not depend on the number of threads."""
    program = str(toolchain.program("llama-quantize"))
    argv = [program, *recipe.arguments(), str(source), str(target), kind, str(os.cpu_count() or 1)]
    make(argv, target, f"quantise {kind}", on_event, timeout_s)


def make(argv: list[str], target: Path, task: str, on_event: OnEvent, timeout_s: float) -> None:
    """Run one of llama.cpp's programs that writes a file, telling how large it has become; ProcessFailed with its words."""
    run(argv, log=target.with_suffix(".log"), timeout_s=timeout_s, on_tick=_growth(target, task, on_event))
    if not target.is_file():
        raise ProcessFailed(
            f"{Path(argv[0]).name} ended well but wrote no {target.name}",
            remedy=f"Read {target.with_suffix('.log')} and run the same command again.",
        )
    size = _mib(target)
    on_event(Progress(stage=Stage.EXPORT, task=task, done=size, total=size, unit="MiB"))


def _growth(target: Path, task: str, on_event: OnEvent) -> Callable[[], None]:
    """Return a tick that tells once a second how large the file has become."""
    told = time.perf_counter()

    def tick() -> None:
        nonlocal told
        if time.perf_counter() - told >= _TICK_S and target.is_file():
            told = time.perf_counter()
            on_event(Progress(stage=Stage.EXPORT, task=task, done=_mib(target), total=None, unit="MiB"))

    return tick


def _mib(path: Path) -> float:
    return round(path.stat().st_size / _MIB, 1)
