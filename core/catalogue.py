"""What is known about teachers, students and devices: YAML cards, shipped, the user's, and beside a profile."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from core.config import Profile, shipped, user_folder
from core.contract import Contract, Sha256
from core.errors import BadConfig
from core.field_types import VariableName
from core.mistakes import describe
from core.shape import ModelShape
from core.yaml_file import read_yaml


class PackagedGguf(Contract):
    """A GGUF file inside a wheel on the package index; both hashes are pinned."""

    kind: Literal["packaged-gguf"] = "packaged-gguf"
    package: str
    version: str
    wheel_sha256: Sha256
    member: str
    gguf_sha256: Sha256


class HubModel(Contract):
    """A Hugging Face repository; `token_env` names the variable with the token of a gated one.

    A `revision` that is a branch or tag is resolved to its commit when the model is used (core/hub/revision.py).
    """

    kind: Literal["hub"] = "hub"
    repo: str
    revision: str = "main"
    token_env: VariableName | None = None


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

    @model_validator(mode="after")
    def _has_a_host(self) -> Self:
        if self.kind == "ssh" and (not self.host or self.host.startswith("-")):
            raise ValueError(f"host={self.host!r} names no machine: give a name your ssh configuration knows")
        return self


Card = TypeVar("Card", ModelCard, DeviceCard)


def model(name: str, beside: Path | None = None) -> ModelCard:
    """Return a model's card by name; `beside` is a folder searched first; BadConfig for an unknown name."""
    return _card(name, "models", ModelCard, beside)


def device(name: str, beside: Path | None = None) -> DeviceCard:
    """Return a device's card by name; BadConfig for an unknown name."""
    return _card(name, "devices", DeviceCard, beside)


def check_cards(profile: Profile, beside: Path | None = None) -> None:
    """Read every card a profile names and check that it fits its part; BadConfig names all that do not."""
    mistakes: list[BadConfig] = []
    for check in (_check_teacher, _check_student, _check_device):
        try:
            check(profile, beside)
        except BadConfig as error:
            mistakes.append(error)
    if mistakes:
        remedy = " ".join(dict.fromkeys(mistake.remedy for mistake in mistakes))
        raise BadConfig("; ".join(mistake.problem for mistake in mistakes), remedy=remedy)


def _check_teacher(profile: Profile, beside: Path | None) -> None:
    card = model(profile.label.teacher, beside)
    _require_role(card, "teacher", "label.teacher")
    check_backend(card, profile.label.backend)


def check_backend(card: ModelCard, backend: str) -> None:
    """Raise BadConfig when a teacher's backend cannot have it."""
    if card.source.kind == "endpoint" and backend != "openai":
        raise BadConfig(
            f"label.teacher {card.name} lives behind an endpoint, label.backend is {backend}",
            remedy="Set label.backend to openai and give label.base_url.",
        )
    if backend == "transformers" and is_gguf(card.source):
        raise BadConfig(
            f"label.teacher {card.name} is a GGUF file, label.backend is {backend}",
            remedy="Set label.backend to llama-cpp, or name a teacher whose card gives a repository or a folder.",
        )


def is_gguf(source: Source) -> bool:
    """Say whether a model is a GGUF file, which is asked in process."""
    return source.kind == "packaged-gguf" or (source.kind == "local" and Path(source.path).expanduser().is_file())


def _check_student(profile: Profile, beside: Path | None) -> None:
    card = model(profile.train.student, beside)
    _require_role(card, "student", "train.student")
    if card.source.kind == "endpoint":
        raise BadConfig(
            f"train.student {card.name} lives behind an endpoint, its weights are not here",
            remedy="Name a student whose card gives a repository, a folder or a package.",
        )


def _check_device(profile: Profile, beside: Path | None) -> None:
    device(profile.bench.device, beside)


def _require_role(card: ModelCard, role: Literal["teacher", "student"], key: str) -> None:
    if role not in card.roles:
        raise BadConfig(
            f"{key}={card.name}: its card has the roles {', '.join(card.roles)}",
            remedy=f"Name a model that can be a {role}: edgekiln models known.",
        )


def names(folder: Literal["models", "devices"], beside: Path | None = None) -> list[str]:
    """Return the names of all cards of a kind, sorted."""
    places = _places(folder, beside)
    return sorted({path.stem for place in places if place.is_dir() for path in place.glob("*.yaml") if path.is_file()})


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
        mistakes = "; ".join(describe(detail, _no_hint) for detail in error.errors())
        raise BadConfig(f"{path}: {mistakes}", remedy="Mend the named keys in that file.") from error


def _no_hint(_key: str) -> str:
    return ""
