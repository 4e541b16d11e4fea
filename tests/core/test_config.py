"""Profiles, overrides, and every mistake named at once."""

from __future__ import annotations

import re
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


def test_processes_beside_each_other_share_cores_and_gpus_and_what_the_user_set_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert config.share_of_machine(0, 1, gpus=4) == {}
    shares = [config.share_of_machine(number, 3, gpus=2) for number in range(3)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["0", "1", "0"]
    assert all(int(share["OMP_NUM_THREADS"]) >= 1 for share in shares)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert [config.share_of_machine(number, 2, gpus=8) for number in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "2"},
        {"CUDA_VISIBLE_DEVICES": "GPU-5"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert config.share_of_machine(0, 2, gpus=8) == {}


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


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("name=journal", "is taken by edgekiln itself"),
        ("name=../../x", "name"),
        ("name=a/b", "name"),
        ("env.max_age_s=.inf", "finite number"),
        ("env.max_age_s=1e12", "less than or equal"),
        ("train.min_gain=.nan", "finite number"),
        ("train.seed=99999999999999999999999", "less than or equal"),
        ("bench.limits=[{metric: tg_tps.Q8_0, op: '>', value: .inf}]", "finite number"),
        ("label.base_url=junk", "is no http:// or https:// address"),
        ("label.backend=openai", "base_url is missing"),
        ("label.quantisation=nf4", "only transformers loads in 4 bits"),
        ("label.batch_size=5", "batch_size"),
        ("export.required=[Q6_K]", "is no part of quantisations"),
        ("export.required=[]", "is no part of quantisations"),
        ("data.sources=x", "is no list"),
    ],
)
def test_a_value_that_would_fail_later_is_refused_at_once(profile: str, change: str, why: str) -> None:
    with pytest.raises(BadConfig) as refused:
        load(profile, [change])
    assert why in refused.value.problem
    assert change.partition("=")[0].partition(".")[0] in refused.value.problem


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (["export.merge=dequantised", "train.quantisation=none"], "there are no 4-bit weights to merge onto"),
        (
            ["export.adapter_gguf=true", "train.lora.use_dora=true"],
            "train.lora.use_dora=true: llama.cpp's file has no place",
        ),
        (["export.adapter_gguf=true", "train.lora.use_rslora=true"], "train.lora.use_rslora=true"),
    ],
)
def test_a_training_that_could_not_be_exported_as_asked_is_refused_at_once(changes: list[str], why: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(why)):
        load("demo", changes)
    for change in changes:
        load("demo", [change])


@pytest.mark.parametrize(
    "change",
    [
        "label.base_url=http://user:hunter2hunter2@teacher.example/v1",
        "label.api_key_env=sk-hunter2hunter2",
        "alerts.url_envs=[slack://hunter2hunter2]",
        "publish.to=hf://ada:hf_hunter2hunter2@x/tutor",
        "publish.to=hf://ada/tutor?token=hunter2hunter2hunter2",
        "publish.to=s3://AKIAX:hunter2hunter2@bucket/models",
        "publish.token_env=hf_hunter2hunter2hunter2",
        "label.api_key_env=ghp_hunter2hunter2hunter2",
    ],
)
def test_a_secret_in_the_wrong_place_is_refused_and_not_repeated(profile: str, change: str) -> None:
    with pytest.raises(BadConfig) as refused:
        load(profile, [change])
    assert "hunter2" not in str(refused.value)
    assert change.partition("=")[0] in str(refused.value)


@pytest.mark.parametrize("text", ["2020-13-45", "[" * 1500, "1" * 5000, "'"], ids=["date", "depth", "digits", "quote"])
def test_a_value_that_yaml_cannot_read_is_a_configuration_error(profile: str, tmp_path: Path, text: str) -> None:
    with pytest.raises(BadConfig) as refused:
        load(profile, [f"description={text}"])
    assert len(str(refused.value)) < 500
    (tmp_path / "bad.yaml").write_text(f"description: {text}\n")
    with pytest.raises(BadConfig, match=r"bad\.yaml"):
        load(str(tmp_path / "bad.yaml"))


def test_two_values_for_one_key_are_refused_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("description: a\ntrain: {student: x}\ntrain: {student: y}\n")
    with pytest.raises(BadConfig, match=r"line 3, column 1: the key 'train' stands twice"):
        load(str(tmp_path / "twice.yaml"))


def test_a_merge_key_may_stand_beside_its_own_values(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(
        MINIMAL.replace("train: {student", "x: &x {r: 4}\ntrain: {lora: {<<: *x, r: 8}, student")
    )
    with pytest.raises(BadConfig, match="x: unknown key"):
        load(str(tmp_path / "m.yaml"))


@pytest.mark.parametrize("entry", [".train=5", "=5", "train..lora=1", "train"])
def test_an_override_without_a_key_is_refused(profile: str, entry: str) -> None:
    with pytest.raises(BadConfig, match="is not key=value"):
        load(profile, [entry])


def test_a_name_that_is_too_long_is_an_unknown_profile() -> None:
    with pytest.raises(UnknownProfile):
        load("x" * 300 + ".yaml")
