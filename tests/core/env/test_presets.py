"""Which preset a machine gets: one for each generation of GPUs and one for none."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import config
from core.env.presets import for_this_machine, presets, recommended
from core.errors import BadConfig, EnvironmentFault
from core.train.presets import Preset
from tests.core.env.stand_ins import A4090, build_nvml, play


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


def test_a_gpu_that_has_no_4_bit_kernels_gets_none():
    assert recommended("5.2", 8_000) is None


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


def test_auto_takes_the_preset_of_the_gpu_that_the_driver_tells(library, tmp_path, monkeypatch):
    play(f"gpus 1\n{A4090}", library, tmp_path, monkeypatch)
    assert config.load("pi5", ["train.preset=auto"]).train.preset == "ada-memory"
    assert config.load("pi5", ["train.preset=auto"]).train.quantisation == "fp4"
    assert for_this_machine("cpu").name == "cpu-tiny"


def test_auto_names_what_keeps_it_from_choosing(library, tmp_path, monkeypatch):
    play(f"gpus 1\n{A4090.replace('8.9', '5.2')}", library, tmp_path, monkeypatch)
    with pytest.raises(EnvironmentFault, match=r"compute capability 5\.2"):
        for_this_machine("auto")
    play("gpus 0\n", library, tmp_path, monkeypatch)
    with pytest.raises(EnvironmentFault, match="no NVIDIA GPU answers"):
        for_this_machine("cuda")


def test_auto_takes_this_machines_preset_and_its_name_is_what_is_kept():
    loaded = config.load("demo", ["train.preset=auto"]).train
    assert loaded.preset == "cpu-tiny"
    assert loaded.learning_rate == 2e-3  # the profile's own


def test_a_users_own_broken_preset_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "edgekiln" / "presets"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(
        "description: mine\nsource: me\ndevice: cuda\ntrain: {}\nspeed: 9\n", encoding="utf-8"
    )
    with pytest.raises(BadConfig, match=r"mine\.yaml is wrong: speed: unknown key"):
        presets()


def test_no_preset_is_made_up_where_none_suits():
    preset = Preset(name="x", description="x", source="x", device="cuda", capability_from=8.0, train={})
    assert not preset.suits(7.5, 16_000)
    assert not preset.suits(None, None)
