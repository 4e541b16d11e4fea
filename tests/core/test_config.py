"""Profiles, overrides, and every mistake named at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import config
from core.config import LabelConfig, TrainConfig, load
from core.errors import BadConfig, ToolMissing, UnknownProfile

MINIMAL = """
description: a test
data: {sources: [rows.jsonl]}
label: {teacher: smollm2-135m-instruct}
train: {student: smollm2-135m-instruct}
"""


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.mark.parametrize("name", config.profile_names())
def test_every_shipped_profile_loads(name: str) -> None:
    assert load(name).name == name


def test_a_profile_takes_the_name_of_its_file_and_defaults(profile: str) -> None:
    loaded = load(profile)
    assert loaded.name == "mine"
    assert loaded.train.lora.r == 16


def test_overrides_reach_nested_keys_as_strings_or_as_a_mapping(profile: str) -> None:
    assert load(profile, ["train.lora.r=32", "export.quantisations=[Q8_0]"]).train.lora.r == 32
    assert load(profile, {"train.lora.r": 8}).train.lora.r == 8


def test_all_mistakes_are_named_at_once_with_the_nearest_key(profile: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load(profile, ["train.lerning_rate=1", "train.lora.r=0", "label.temperature=9", "data.sources.x=1"])
    text = str(caught.value)
    assert "train.lerning_rate: unknown key, did you mean train.learning_rate?" in text
    assert "train.lora.r=0" in text
    assert "label.temperature=9" in text
    assert "data.sources.x: sources is a value" in text
    assert caught.value.exit_status == 2


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("description: x\n")
    with pytest.raises(BadConfig, match=r"data: missing; label: missing; train: missing"):
        load(str(path))


@pytest.mark.parametrize("name", ["demoo", "no/such.yaml", "../demo"])
def test_an_unknown_profile_is_refused(name: str) -> None:
    with pytest.raises(UnknownProfile):
        load(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not YAML at line 1"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"- a\n- b\n", "no mapping"),
        (b"x: " + b"1" * (1 << 20), "has > 1048576 bytes"),
    ],
    ids=["broken", "latin", "list", "huge"],
)
def test_a_profile_that_is_no_profile_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(BadConfig, match=message):
        load(str(path))


def test_yaml_tags_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(BadConfig, match="not YAML"):
        load(str(path))


@pytest.mark.parametrize("entry", ["train.lora.r", "=3", "train.seed=[1"])
def test_an_override_that_is_none_is_refused(profile: str, entry: str) -> None:
    with pytest.raises(BadConfig):
        load(profile, [entry])


@given(st.integers(1, 256), st.floats(1, 1000))
def test_operational_fields_shape_nothing(concurrency: int, timeout_s: float) -> None:
    one = LabelConfig(teacher="t")
    other = LabelConfig(teacher="t", concurrency=concurrency, timeout_s=timeout_s, api_key_env="KEY")
    assert one.shaping() == other.shaping()


@given(st.integers(1, 1024))
def test_a_nested_field_shapes(r: int) -> None:
    one = TrainConfig.model_validate({"student": "s", "lora": {"r": 16}})
    other = TrainConfig.model_validate({"student": "s", "lora": {"r": r}})
    assert (one.shaping() == other.shaping()) == (r == 16)


def test_a_secret_is_read_by_name_and_a_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "s3cret")
    assert config.secret("TEACHER_KEY") == "s3cret"
    monkeypatch.delenv("TEACHER_KEY")
    with pytest.raises(ToolMissing, match="TEACHER_KEY is not set"):
        config.secret("TEACHER_KEY")


def test_the_users_profile_goes_before_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "edgekiln" / "profiles"
    folder.mkdir(parents=True)
    (folder / "demo.yaml").write_text(MINIMAL)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load("demo").description == "a test"


def test_the_cache_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path))
    assert config.cache_folder() == tmp_path


def test_the_json_schema_names_every_section() -> None:
    assert set(config.json_schema()["properties"]) >= {
        "env",
        "data",
        "label",
        "train",
        "export",
        "bench",
        "ingest",
        "alerts",
    }
