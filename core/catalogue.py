"""What is known about teachers, students and devices: YAML cards, shipped, the user's, and beside a profile."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from core.config import read_yaml, shipped, user_folder
from core.contract import Contract, Sha256
from core.errors import BadConfig
from core.shape import ModelShape


class PackagedGguf(Contract):
    """A GGUF file inside a wheel on the package index; both hashes are pinned."""

    kind: Literal["packaged-gguf"] = "packaged-gguf"
    package: str
    version: str
    wheel_sha256: Sha256
    member: str
    gguf_sha256: Sha256


class HubModel(Contract):
    """A Hugging Face repository at a revision; `token_env` names the variable with the token of a gated one."""

    kind: Literal["hub"] = "hub"
    repo: str
    revision: str = "main"
    token_env: str | None = None


class LocalModel(Contract):
    """A Hugging Face folder or a GGUF file on this machine."""

    kind: Literal["local"] = "local"
    path: str


class EndpointModel(Contract):
    """A model that an OpenAI-compatible endpoint serves under this name."""

    kind: Literal["endpoint"] = "endpoint"
    model: str


Source = Annotated[PackagedGguf | HubModel | LocalModel | EndpointModel, Field(discriminator="kind")]


class ModelCard(Contract):
    """A model: sizes in parameters and MiB, `memory_mib` for weights as they are loaded in the stated role.

    `shape` is what its config.json says, so that its memory can be told before anything is fetched.
    """

    name: str
    roles: tuple[Literal["teacher", "student"], ...]
    source: Source
    parameters: int | None
    hidden_size: int | None
    licence: str
    chat_template: str
    memory_mib: int | None
    shape: ModelShape | None = None


class DeviceCard(Contract):
    """Where a benchmark runs. For `ssh`, `host` is a name the user's OpenSSH configuration knows."""

    name: str
    kind: Literal["local", "ssh"]
    host: str | None = None
    folder: str = "edgekiln"
    llama_bench: str = "llama-bench"
    description: str = ""


Card = TypeVar("Card", ModelCard, DeviceCard)


def model(name: str, beside: Path | None = None) -> ModelCard:
    """Return a model's card by name; `beside` is a folder searched first; BadConfig for an unknown name."""
    return _card(name, "models", ModelCard, beside)


def device(name: str, beside: Path | None = None) -> DeviceCard:
    """Return a device's card by name; BadConfig for an unknown name."""
    return _card(name, "devices", DeviceCard, beside)


def names(folder: Literal["models", "devices"], beside: Path | None = None) -> list[str]:
    """Return the names of all cards of a kind, sorted."""
    places = _places(folder, beside)
    return sorted({path.stem for place in places if place.is_dir() for path in place.glob("*.yaml")})


def _places(folder: str, beside: Path | None) -> list[Path]:
    own = [beside / folder] if beside else []
    return [*own, user_folder() / folder, shipped(folder)]


def _card(name: str, folder: Literal["models", "devices"], kind: type[Card], beside: Path | None) -> Card:
    known = names(folder, beside)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}."
        raise BadConfig(f"{folder[:-1]} {name!r} is not known", remedy=f"Name another or add {folder}/{name}.yaml; {hint}")
    path = next(place / f"{name}.yaml" for place in _places(folder, beside) if (place / f"{name}.yaml").is_file())
    try:
        return kind.model_validate({"name": name, **read_yaml(path)})
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadConfig(f"{path}: {mistakes}", remedy="Mend the named keys in that file.") from error
