"""A Hugging Face folder as GGUF: llama.cpp's own converter, then llama-quantize. What the files are worth is judged elsewhere."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from core.contract import Stage
from core.errors import GateRefused, ProcessFailed
from core.events import OnEvent, Progress
from core.export.section import TensorTypes
from core.process import run
from core.toolchain import Toolchain

_TICK_S = 1.0
_MIB = 1 << 20
_UNKNOWN_PRE = re.compile(r"chkhsh: +([0-9a-f]{64})\b")
_PHI_3 = ("phi-3", "phi3")


def convert(folder: Path, target: Path, name: str, toolchain: Toolchain, on_event: OnEvent, *, timeout_s: float) -> None:
    """Write a Hugging Face folder as an F32 GGUF; `name` goes into its metadata.

    GateRefused when the converter does not know the pre-tokenizer, else ProcessFailed with the converter's words.
    """
    script = toolchain.source / "convert_hf_to_gguf.py"
    told = ["--outfile", str(target), "--outtype", "f32", "--model-name", _name_in_file(folder, name)]
    try:
        make([sys.executable, str(script), str(folder), *told], target, "convert to GGUF", on_event, timeout_s)
    except ProcessFailed as error:
        if found := _UNKNOWN_PRE.search(target.with_suffix(".log").read_text(encoding="utf-8", errors="replace")):
            raise GateRefused(
                f"{name}: llama.cpp's converter does not know its pre-tokenizer, whose hash is {found[1]}: "
                "the tokenizer is new or was changed by hand",
                remedy="Use the tokenizer's files as the model was published, or choose another train.student.",
            ) from error
        raise


def _name_in_file(folder: Path, name: str) -> str:
    """Return the name with Phi-3 in it for such a model: by it llama.cpp knows that its special tokens swallow white space.

    Source: src/llama-vocab.cpp. A Phi-3 without `tokenizer.model` (Phi-4-mini) has another tokenizer.
    """
    config = folder / "config.json"
    kind = json.loads(config.read_bytes()).get("model_type") if config.is_file() else None
    swallows = kind == "phi3" and (folder / "tokenizer.model").is_file()
    return f"{name} (Phi-3)" if swallows and not any(known in name.casefold() for known in _PHI_3) else name


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
