"""Training settings that suit a kind of machine, as data in configs/presets: which one, and how to take it over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from core.config import TrainConfig, shipped, user_folder
from core.contract import Contract
from core.errors import BadConfig
from core.yaml_file import read_yaml

_GB = 1e9
_MIB = 1 << 20


class Preset(Contract):
    """Settings for `train` on a CPU, or on GPUs from one compute capability to below another; `source` says whose they are."""

    name: str
    description: str
    source: str
    device: Literal["cpu", "cuda"]
    capability_from: float = Field(default=0.0, ge=0)
    capability_below: float | None = None
    min_memory_gb: float = Field(default=0.0, ge=0)
    train: dict[str, Any]

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

    def on(self, config: TrainConfig) -> TrainConfig:
        """Return a configuration with the preset's settings."""
        lora = {**config.lora.model_dump(), **self.train.get("lora", {})}
        return TrainConfig.model_validate({**config.model_dump(), **self.train, "lora": lora})


def presets() -> list[Preset]:
    """Return every preset, shipped and the user's own, by name; BadConfig for a broken one."""
    folders = (shipped("presets"), user_folder() / "presets")
    files = {path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}
    try:
        return [Preset.model_validate({"name": name, **read_yaml(path)}) for name, path in sorted(files.items())]
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadConfig(f"a preset is wrong: {mistakes}", remedy="Mend the named keys in presets/*.yaml.") from error


def recommended(capability: str | None, memory_mib: int | None) -> Preset | None:
    """Return the narrowest preset for a GPU's compute capability such as "8.6", or for none; None when no preset suits."""
    number = None if capability is None else float(capability)
    suiting = [preset for preset in presets() if preset.suits(number, memory_mib)]
    return max(suiting, key=lambda preset: (preset.capability_from, preset.name), default=None)


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
