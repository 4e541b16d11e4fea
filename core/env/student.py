"""The configured student as far as it can be read without a network: its folder, its config.json, its shape."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.catalogue import EndpointModel, HubModel, LocalModel, ModelCard, PackagedGguf
from core.contract import Contract
from core.shape import ModelShape, shape_of
from core.train import student

CONFIG = "config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
_MAX_BYTES = 4 << 20


class StudentRequest(Contract):
    """Whose files to look for."""

    card: ModelCard


class StudentReading(Contract):
    """What lies here of a student; `why` says what is missing or broken, `source` where the shape was read."""

    name: str
    folder: str | None
    config: dict[str, Any] | None
    has_tokenizer: bool
    shape: ModelShape | None
    source: str
    why: str | None

    @property
    def complete(self) -> bool:
        """Whether its conversion can be tried."""
        return self.config is not None and self.has_tokenizer


def read(argument: dict[str, Any]) -> StudentReading:
    """Look for a student's files; argument: StudentRequest."""
    return read_student(StudentRequest.model_validate(argument).card)


class StudentsRequest(Contract):
    """The same of several."""

    cards: tuple[ModelCard, ...]


class StudentsReading(Contract):
    """What lies here of each, in the order asked."""

    students: tuple[StudentReading, ...]


def read_several(argument: dict[str, Any]) -> StudentsReading:
    """Look for several students' files; argument: StudentsRequest."""
    cards = StudentsRequest.model_validate(argument).cards
    return StudentsReading(students=tuple(read_student(card) for card in cards))


def read_student(card: ModelCard) -> StudentReading:
    """Return what can be read of a student here and now; nothing is fetched."""
    folder, why = _folder(card)
    config, broken = _config(folder) if folder else (None, None)
    shape = shape_of(config) if config else card.shape
    has_tokenizer = folder is not None and any((folder / name).is_file() for name in TOKENIZERS)
    if folder and config and not has_tokenizer:
        broken = f"{folder} has none of {', '.join(TOKENIZERS)}"
    return StudentReading(
        name=card.name,
        folder=str(folder) if folder else None,
        config=config,
        has_tokenizer=has_tokenizer,
        shape=shape,
        source=str(folder / CONFIG) if folder and config else f"the card of {card.name}",
        why=broken or why,
    )


def _folder(card: ModelCard) -> tuple[Path | None, str | None]:
    match card.source:
        case PackagedGguf():
            return _made(card)
        case LocalModel(path=path):
            given = Path(path).expanduser()
            return _made(card) if given.is_file() else (given, None)
        case HubModel() as source:
            return _cached(source)
        case EndpointModel():
            return None, f"{card.name} lives behind an endpoint"


def _made(card: ModelCard) -> tuple[Path | None, str | None]:
    folder = student.cached(card)
    return (folder, None) if folder.is_dir() else (None, f"its GGUF was not yet made a folder for training ({folder})")


def _cached(source: HubModel) -> tuple[Path | None, str | None]:
    """Return the hub cache's folder of a revision where config.json lies in it."""
    if find_spec("huggingface_hub") is None:
        return None, "huggingface_hub is not installed, so its cache was not looked into"
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, CONFIG, revision=source.revision)
    if isinstance(found, str):
        return Path(found).parent, None
    return None, f"{source.repo}@{source.revision} is not in the Hugging Face cache"


def _config(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    path = folder / CONFIG
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None, f"{path} has > {_MAX_BYTES} bytes"
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, f"{path} is missing"
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        return None, f"{path} cannot be read: {error}"
    return (config, None) if isinstance(config, dict) else (None, f"{path} holds no object")
