"""Presets lie under a profile's own settings, name their source, and are refused when they are no training."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import config
from core.env.presets import presets
from core.errors import BadConfig
from core.train.presets import Preset, under


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_a_shipped_preset_is_what_a_profile_gets_that_says_nothing_itself(preset, tmp_path):
    bare = tmp_path / "bare.yaml"
    bare.write_text(
        "description: bare\ndata: {sources: [x.jsonl]}\nlabel: {teacher: qwen3-8b}\ntrain: {student: any, preset: "
        f"{preset.name}}}\n",
        encoding="utf-8",
    )
    loaded = config.load(str(bare)).train
    assert loaded.preset == preset.name
    assert loaded == config.load(str(bare), preset.settings()).train
    assert preset.source


def test_the_published_settings_are_taken_over_to_the_letter():
    by_name = {preset.name: preset.train for preset in presets()}
    ampere, turing, ada = (by_name[name] for name in ("ampere-balanced", "turing-safe", "ada-memory"))
    figures = [(p["quantisation"], *list(p["lora"].values())[:3]) for p in (ampere, turing, ada)]
    assert figures == [("nf4", 64, 128, 0.05), ("nf4", 32, 64, 0.1), ("fp4", 16, 32, 0.05)]
    assert [p["double_quantisation"] for p in (ampere, turing, ada)] == [True, True, False]
    assert ada["lora"]["target_modules"][-2:] == ["up_proj", "down_proj"]
    paper = by_name["qlora-paper"]
    assert (paper["learning_rate"], paper["max_grad_norm"], paper["lr_scheduler_type"]) == (2e-4, 0.3, "constant")
    assert paper["per_device_train_batch_size"] * paper["gradient_accumulation_steps"] == 16
    assert by_name["lora-without-regret"]["lora"]["r"] == 256


def test_defaults_lie_below_the_preset_and_the_profile_and_the_overrides_above_it():
    loaded = config.load("demo", ["train.preset=qlora-paper", "train.lora.r=7"]).train
    assert loaded.max_grad_norm == 0.3  # the preset's, not the default 1.0
    assert loaded.lora.lora_alpha == 16  # the preset's, beside an r that was overridden
    assert loaded.learning_rate == 2e-3  # the profile's, not the preset's 2e-4
    assert loaded.lora.r == 7


def test_the_presets_name_redoes_no_work_but_its_settings_do():
    plain, named = config.load("demo").train, config.load("demo", ["train.preset=cpu-tiny"]).train
    assert named.shaping() == plain.shaping()
    assert config.load("demo", ["train.preset=turing-safe"]).train.shaping() != plain.shaping()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("amper", "did you mean ampere-balanced"),
        ("autoo", "did you mean auto"),
        ("xyz", "known: ada-memory, ampere-balanced"),
        ("../demo", "no such preset"),
    ],
)
def test_an_unknown_preset_is_told_with_the_nearest_beside_every_other_mistake(wrong, said):
    with pytest.raises(BadConfig, match=said) as told:
        config.load("demo", [f"train.preset={wrong}", "train.lora.rr=2"])
    assert "train.lora.rr" in told.value.problem


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"lora": {"rr": 3}}, r"lora\.rr: unknown key"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"student": "another"}, "student is the profile's to say"),
        ({"preset": "auto"}, "preset is the profile's to say"),
    ],
)
def test_a_preset_that_is_no_training_is_refused_where_it_is_read(train, said):
    with pytest.raises(ValueError, match=said):
        Preset(name="x", description="x", source="x", device="cpu", train=train)


trees = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda leaf: st.dictionaries(st.sampled_from("abc"), leaf, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from("abc"), trees, max_size=3), st.dictionaries(st.sampled_from("abc"), trees, max_size=3)
)
def test_nothing_of_a_profile_is_lost_when_a_preset_lies_under_it(own, settings):
    def holds(joined, above):
        return all(
            holds(joined[key], value) if isinstance(value, dict) else joined[key] == value for key, value in above.items()
        )

    joined = under(own, settings)
    assert holds(joined, own)
    assert joined.keys() == own.keys() | settings.keys()
    assert under(joined, settings) == joined
