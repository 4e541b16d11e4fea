"""Presets: training settings from a named source for a kind of machine, as data; what lies under a profile's own settings."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from core.contract import Contract
from core.errors import BadConfig
from core.mistakes import describe
from core.train.section import TrainConfig
from core.yaml_file import read_yaml

AUTO = "auto"
_GB = 1e9
_MIB = 1 << 20
_PROFILES_OWN = {"preset", "student"}  # which student and which preset is a profile's to say


class Preset(Contract):
    """Settings for `train` on a CPU, or on GPUs from one compute capability to below another; `source` says whose they are.

    `by_machine` says whether `train.preset=auto` may take it.
    """

    name: str
    description: str
    source: str
    device: Literal["cpu", "cuda"]
    capability_from: float = Field(default=0.0, ge=0)
    capability_below: float | None = None
    min_memory_gb: float = Field(default=0.0, ge=0)
    by_machine: bool = True
    train: dict[str, Any]

    @field_validator("train")
    @classmethod
    def _is_a_training(cls, train: dict[str, Any]) -> dict[str, Any]:
        if foreign := sorted(_PROFILES_OWN & train.keys()):
            raise ValueError(f"{foreign[0]} is the profile's to say")
        try:
            TrainConfig.model_validate({"student": "any", **train})
        except ValidationError as error:
            raise ValueError("; ".join(describe(detail, _no_hint) for detail in error.errors())) from error
        return train

    def suits(self, capability: float | None, memory_mib: int | None) -> bool:
        """Whether it is for a GPU, or for none when `capability` is None."""
        if capability is None or self.device == "cpu":
            return capability is None and self.device == "cpu"
        below = self.capability_below is None or capability < self.capability_below
        # a card sold as 24 GB tells some hundred MiB less
        enough = (memory_mib or 0) * _MIB >= 0.95 * self.min_memory_gb * _GB
        return self.capability_from <= capability and below and enough

    def settings(self) -> tuple[str, ...]:
        """Return it as overrides, `train.lora.r=64`."""
        return tuple(f"{key}={_written(value)}" for key, value in _flat(self.train, "train"))


def files(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the preset files of folders by name; a later folder's takes the place of an earlier one's."""
    found = {path.stem: path for folder in folders if folder.is_dir() for path in folder.glob("*.yaml")}
    return dict(sorted(found.items()))


def read(path: Path) -> Preset:
    """Read a preset's file; BadConfig names what is wrong with it."""
    try:
        return Preset.model_validate({"name": path.stem, **read_yaml(path)})
    except ValidationError as error:
        mistakes = "; ".join(describe(detail, _no_hint) for detail in error.errors())
        raise BadConfig(f"the preset {path} is wrong: {mistakes}", remedy="Mend the named keys in that file.") from error


def named(name: str, folders: Sequence[Path]) -> Preset:
    """Return a preset by its name; BadConfig with the nearest one for a name that is none."""
    known = files(folders)
    if name not in known:
        names = [*known, AUTO]
        near = [one for one in names if name and one.startswith(name)] or difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}, {AUTO}"
        raise BadConfig(f"train.preset={name!r}: no such preset, {hint}", remedy="Name another: edgekiln train presets")
    return read(known[name])


def under(own: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with a profile's own on top of them, key by key."""
    joined = {**settings, **own}
    for key, below in settings.items():
        above = own.get(key)
        if isinstance(below, Mapping) and isinstance(above, Mapping):
            joined[key] = under(above, below)
    return joined


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _no_hint(_key: str) -> str:
    return ""
