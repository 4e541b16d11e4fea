"""The importance matrix: how much each weight matters for the training texts, by llama-imatrix, for llama-quantize to heed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.env.host import affinity
from core.errors import DataError
from core.events import OnEvent
from core.export.chunks import telling
from core.process import run
from core.toolchain import Toolchain

FEWEST_CHARACTERS = 2048
_CHARACTERS_A_TOKEN = 8  # more than any script needs, so that a chosen context is filled twice
_CONTEXTS = (512, 128)


def importance_matrix(
    f32: Path, texts: Iterable[str], most_tokens: int, toolchain: Toolchain, on_event: OnEvent, *, timeout_s: float
) -> Path:
    """Write the importance matrix of a file over the training texts beside it and return its path.

    DataError when the texts are too short for one.
    """
    folder = f32.parent / "imatrix"
    folder.mkdir(exist_ok=True)
    text = "\n\n".join(texts)
    if len(text) < FEWEST_CHARACTERS:
        raise DataError(
            f"export.imatrix: the training texts have {len(text)} characters < {FEWEST_CHARACTERS}",
            remedy="Give more training rows, or set export.imatrix to false.",
        )
    n_ctx = next(size for size in _CONTEXTS if len(text) >= 2 * size * _CHARACTERS_A_TOKEN)
    source, target, printed = folder / "text.txt", folder / "imatrix.gguf", folder / "printed.txt"
    source.write_text(text, encoding="utf-8")
    chunks = max(1, most_tokens // n_ctx)
    argv = [
        str(toolchain.program("llama-imatrix")),
        *("--model", str(f32), "--file", str(source), "--output", str(target)),
        *("--ctx-size", str(n_ctx), "--batch-size", str(n_ctx), "--chunks", str(chunks), "--threads", str(affinity())),
    ]
    run(
        argv,
        log=folder / "log",
        stdout=printed,
        timeout_s=timeout_s,
        on_tick=telling(printed, "importance matrix", None, on_event),
    )
    return target
