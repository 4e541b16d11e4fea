"""What the flow's form offers: shipped and the user's own profiles and cards, read when the flow is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from core import catalogue, config
from core.contract import Stage
from core.errors import ConfigError
from core.train import presets

Quantisation = Literal["F32", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]


def models_for(role: Literal["teacher", "student"]) -> list[str]:
    """Return the names of the cards for a role; a card with a mistake is left out, `edgekiln models known` tells about it."""
    return [name for name in catalogue.names("models") if role in _roles(name)]


def _roles(name: str) -> tuple[str, ...]:
    try:
        return catalogue.model(name).roles
    except ConfigError:
        return ()


if TYPE_CHECKING:
    ProfileName = str
    TeacherName = str
    StudentName = str
    DeviceName = str
    PresetName = str
    StageName = str
else:
    ProfileName = Literal[tuple(config.profile_names())]
    TeacherName = Literal[tuple(models_for("teacher"))]
    StudentName = Literal[tuple(models_for("student"))]
    DeviceName = Literal[tuple(catalogue.names("devices"))]
    PresetName = Literal[(presets.AUTO, *presets.files(config.preset_folders()))]
    StageName = Literal[tuple(stage.value for stage in Stage)]


def chosen(**choices: Any) -> dict[str, Any]:
    """Return the form's choices as dotted overrides; what was left empty keeps the profile's value."""
    keys = {"dataset": "data.sources", "student": "train.student", "teacher": "label.teacher", "device": "bench.device"}
    keys |= {"preset": "train.preset"}
    put = {keys[name]: value for name, value in choices.items() if name in keys and value}
    if "data.sources" in put:
        put["data.sources"] = [put["data.sources"]]
    if choices.get("quantisations"):
        put["export.quantisations"] = list(choices["quantisations"])
    return put
