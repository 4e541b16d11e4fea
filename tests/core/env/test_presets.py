"""The presets: one for each generation of GPUs and one for none, all valid settings."""

from __future__ import annotations

import pytest

from core import config
from core.config import TrainConfig
from core.env.presets import Preset, presets, recommended
from core.errors import BadConfig


@pytest.mark.parametrize(
    ("capability", "memory_mib", "name"),
    [
        (None, None, "cpu-tiny"),
        ("6.1", 11_000, "turing-safe"),
        ("7.5", 15_360, "turing-safe"),
        ("8.0", 40_536, "ampere-balanced"),
        ("8.6", 24_576, "ampere-balanced"),
        ("8.9", 24_564, "ada-memory"),
        ("8.9", 8_188, "ampere-balanced"),
        ("9.0", 143_771, "ampere-balanced"),
        ("12.0", 32_607, "ampere-balanced"),
    ],
)
def test_each_generation_gets_its_own_preset(capability, memory_mib, name):
    found = recommended(capability, memory_mib)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_a_presets_settings_are_overrides_a_profile_takes(preset):
    loaded = config.load("demo", preset.settings()).train
    assert loaded == preset.on(config.load("demo").train)
    assert preset.source


def test_a_users_own_broken_preset_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "edgekiln" / "presets"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "description: mine\nsource: me\ndevice: cuda\ntrain: {}\nspeed: 9\n", encoding="utf-8"
    )
    with pytest.raises(BadConfig, match="speed"):
        presets()


def test_no_preset_is_made_up_where_none_suits(tmp_path, monkeypatch):
    preset = Preset(name="x", description="x", source="x", device="cuda", capability_from=8.0, train={})
    assert not preset.suits(7.5, 16_000)
    assert not preset.suits(None, None)
    assert preset.on(TrainConfig(student="any")) == TrainConfig(student="any")
