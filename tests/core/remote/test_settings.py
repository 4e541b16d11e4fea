"""The profile's section `remote`: what is refused, and that no secret is repeated."""

from __future__ import annotations

import pytest

from core import config
from core.errors import BadConfig
from core.sinks import secret_names

SOUND = ["remote.url=s3://my-bucket/kiln/team", "remote.access_key_env=KILN_KEY", "remote.secret_key_env=KILN_SECRET"]


def test_a_sound_section_is_read_and_its_variables_count_as_secrets() -> None:
    profile = config.load(
        "demo", [*SOUND, "remote.session_token_env=KILN_TOKEN", "remote.endpoint_url=http://127.0.0.1:9000"]
    )
    assert profile.remote.url == "s3://my-bucket/kiln/team"
    assert set(secret_names(profile)) == {"KILN_KEY", "KILN_SECRET", "KILN_TOKEN"}


def test_without_a_url_there_is_no_store_and_every_field_is_operational() -> None:
    assert config.load("demo").remote.url is None
    assert config.load("demo", SOUND).remote.shaping() == {}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("remote.url=https://my-bucket", "no s3://bucket/prefix address"),
        ("remote.url=s3://MyBucket", "no s3://bucket/prefix address"),
        ("remote.url=s3://10.0.0.1/x", "no s3://bucket/prefix address"),
        ("remote.url=s3://my-bucket/../x", "prefix"),
        ("remote.url=s3://my-bucket//x", "prefix"),
        ("remote.url=s3://AKIAHUNTER2:hunter2@my-bucket/x", "no s3://bucket/prefix address"),
        ("remote.endpoint_url=http://key:hunter2@127.0.0.1", "put the key into a variable"),
        ("remote.access_key_env=AKIA/hunter2", "pattern"),
        ("remote.secret_key_env=null", "stand together"),
        ("remote.access_key_env=null", "stand together"),
        ("remote.url=null", "url is missing, access_key_env, secret_key_env is set"),
        ("remote.part_mib=1", "greater than or equal to 5"),
        ("remote.region=nowhere.else", "pattern"),
        ("remote.threads=0", "greater than"),
        ("remote.uri=x", "did you mean"),
    ],
)
def test_a_section_that_would_fail_later_is_refused_at_once(change: str, why: str) -> None:
    with pytest.raises(BadConfig) as refused:
        config.load("demo", [*SOUND, change])
    assert why in refused.value.problem
    assert "hunter2" not in str(refused.value).lower()


def test_a_token_without_a_key_is_refused() -> None:
    with pytest.raises(BadConfig, match="belongs to a key"):
        config.load("demo", [SOUND[0], "remote.session_token_env=TOKEN"])
