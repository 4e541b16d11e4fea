"""The student as a Hugging Face folder. A GGUF is dequantised once into the cache by core/train/materialise/worker.py."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from core import models, toolchain
from core.catalogue import ModelCard
from core.config import cache_folder
from core.contract import Contract
from core.errors import ArtifactError
from core.events import Note, OnEvent, ignore
from core.files import digest_of, disk_full_is_an_error
from core.train import sealed
from core.worker_process import call

MATERIALISE_VERSION = 1  # raise it when the same GGUF gives other bytes
_TIMEOUT_S = 3600.0


class MaterialiseRequest(Contract):
    """A GGUF file and the folder to write."""

    gguf: str
    target: str


class MaterialiseResult(Contract):
    """What was written."""

    parameters: int


def folder(card: ModelCard, on_event: OnEvent = ignore) -> Path:
    """Return a verified Hugging Face folder of a student, with its tokenizer and chat template.

    DataError when a GGUF's tokenizer cannot be carried over exactly; else the errors of core.models.fetch.
    """
    target = cached(card)
    if target.is_dir():
        try:
            sealed.check(target)
        except ArtifactError as error:
            on_event(Note(stage=None, text=f"student {card.name} is made anew: {error.problem}", level="warning"))
            shutil.rmtree(target)
        else:
            return target
    source = models.fetch(card, on_event)
    return source if source.is_dir() else _materialise(card, source, target, on_event)


def cached(card: ModelCard) -> Path:
    """Return where the folder of a student that comes as a GGUF lies once it was made."""
    key = digest_of([models.identity(card), MATERIALISE_VERSION])[:16]
    return cache_folder() / "models" / key / "hf"


def _materialise(card: ModelCard, gguf: Path, target: Path, on_event: OnEvent) -> Path:
    toolchain.ensure(on_event)  # the worker compares the tokenizer with llama.cpp's own
    on_event(Note(stage=None, text=f"student {card.name}: dequantising the GGUF once into {target}"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_is_an_error(target.parent), tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "hf"
        request = MaterialiseRequest(gguf=str(gguf), target=str(made))
        call(
            "core.train.materialise.worker",
            request,
            MaterialiseResult,
            Path(scratch) / "work",
            on_event,
            timeout_s=_TIMEOUT_S,
        )
        sealed.seal(made, {"gguf": models.identity(card), "version": str(MATERIALISE_VERSION)})
        if not target.exists():  # another process may have been faster; both made the same bytes
            made.rename(target)
    return target
