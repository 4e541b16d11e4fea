"""How far one of llama.cpp's programs has come, by the chunks of text it has printed a figure for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from core.contract import Stage
from core.events import OnEvent, Progress

_CHUNK = re.compile(rb"\[\d+\]|^ *\d+ +[\d.]+ \xc2\xb1", re.MULTILINE)


def chunks_in(printed: bytes) -> int:
    """Return for how many chunks llama-perplexity or llama-imatrix has printed a figure."""
    return len(_CHUNK.findall(printed))


def telling(output: Path, task: str, total: int | None, on_event: OnEvent) -> Callable[[], None]:
    """Return a tick that tells of every chunk that was added to a program's output."""
    told = -1

    def tick() -> None:
        nonlocal told
        done = chunks_in(output.read_bytes())
        if done != told:
            told = done
            shown = done if total is None else min(done, total)
            on_event(Progress(stage=Stage.EXPORT, task=task, done=shown, total=total, unit="chunks"))

    return tick
