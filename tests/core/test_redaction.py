"""No secret, no name and no home folder passes the redaction, and what a reader needs stays readable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.redaction import Person, redact

PERSON = Person(home=Path("/Users/marlene"), user="marlene", host="workbench7")


def clean(text: str, **environ: str) -> str:
    return redact(text, environ, PERSON)


@pytest.mark.parametrize(
    "secret",
    [
        "hf_AbCdEfGhIjKlMnOpQrStUvWx",
        "sk-proj-1234567890abcdefgh",
        "ghp_0123456789abcdefghijABCDEFGHIJ",
        "github_pat_11AAAAAAA0abcdefghijkl",
        "xoxb-123456789012-abcdefghijkl",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "glpat-abcdefgh12345678",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_a_token_is_known_by_its_form(secret: str) -> None:
    told = clean(f"the request with {secret} failed")
    assert told == "the request with <hidden> failed"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "slack://<hidden>"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544", "tgram://<hidden>"),
        ("mailto://marlene:geheim@mail.example", "mailto://<hidden>"),
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", "discord://<hidden>"),
        ("jsons://user:pw@host/path", "jsons://<hidden>"),
        ("ntfys://topic", "ntfys://<hidden>"),
        ("https://user:pw@teacher.example/v1", "https://<hidden>@teacher.example/v1"),
        (
            "https://teacher.example/v1?api-version=3&key=s3cr3t",
            "https://teacher.example/v1?api-version=<hidden>&key=<hidden>",
        ),
        ("https://hooks.slack.com/services/T0/B0/XyZ", "https://hooks.slack.com/<hidden>"),
        ("https://discord.com/api/webhooks/41/JHM", "https://discord.com/<hidden>"),
        ("https://x.example/a1b2c3d4e5f6a7b8c9d0e1f2/y", "https://x.example/<hidden>/y"),
        ("http://127.0.0.1:8000/v1/chat/completions", "http://127.0.0.1:8000/v1/chat/completions"),
        ("unix:///var/run/docker.sock", "unix:///var/run/docker.sock"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B", "https://huggingface.co/Qwen/Qwen3-0.6B"),
    ],
)
def test_of_a_web_address_host_and_path_stay_and_of_any_other_nothing(url: str, shown: str) -> None:
    assert clean(f"POST {url} failed") == f"POST {shown} failed"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer <hidden>"),
        ("password=geheim123", "password=<hidden>"),
        ('"api_key": "geheim123"', '"api_key": "<hidden>"'),
        ("X-Auth-Token: geheim123", "X-Auth-Token: <hidden>"),
        ("HF_TOKEN=geheim123 make", "HF_TOKEN=<hidden> make"),
        ("max_tokens: 96, completion_tokens=1200", "max_tokens: 96, completion_tokens=1200"),
        ("write to marlene.s@mail.example", "write to <e-mail>"),
        ("/Users/marlene/jobs/a.jsonl", "~/jobs/a.jsonl"),
        ("/Users/marlene2/jobs", "/Users/marlene2/jobs"),
        ("process of marlene on workbench7", "process of <user> on <host>"),
        ("torch 2.13.0+cpu at step 12", "torch 2.13.0+cpu at step 12"),
    ],
)
def test_what_names_a_secret_or_a_person_is_hidden_and_the_rest_stays(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_a_variables_value_is_hidden_in_every_form_it_is_written_in() -> None:
    value = 'p"ä\\ss/wo rd'
    for form in (value, json.dumps(value), repr(value), "p%22%C3%A4%5Css%2Fwo%20rd"):
        told = clean(f"x {form} y", TEACHER_KEY=value)
        assert "<TEACHER_KEY>" in told
        assert "wo rd" not in told
        assert "wo%20rd" not in told


def test_a_long_secret_is_hidden_before_a_shorter_one_inside_it() -> None:
    assert clean("geheim-geheim2", A_TOKEN="geheim", B_TOKEN="geheim-geheim2") == "<B_TOKEN>"


def test_each_line_of_a_secret_of_many_lines_is_hidden() -> None:
    assert clean("second: zweite-zeile", DEPLOY_KEY="erste-zeile\nzweite-zeile") == "second: <DEPLOY_KEY>"


def test_ordinary_variables_do_not_make_the_text_unreadable() -> None:
    told = clean("/usr/bin/python 12.4.1 0 true", PATH="/usr/bin", CUDA="12.4.1", CI="true", N="0")
    assert told == "/usr/bin/python 12.4.1 0 true"


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=8, max_size=40))
def test_the_value_of_a_secret_variable_never_passes(value: str) -> None:
    told = clean(f"before {value} after {json.dumps(value)}", MY_SECRET=value)
    assert value not in told.replace("<MY_SECRET>", "").replace("<hidden>", "")
