"""The teacher's endpoint, asked by a real child over loopback: every way it can fail, and what is made of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from core import catalogue, config
from core.contract import Finding, Severity
from core.env.capability import Context
from core.env.probe import Probe, Reading, run_probes
from core.env.roles import Role
from core.env.services.capability import CAPABILITY
from core.env.services.teacher import read
from tests.core.env.services.conftest import Says, Service

MODEL = "Qwen/Qwen3-8B"
LEGS = '{"legs": 4}'
LISTED = Says({"object": "list", "data": [{"id": MODEL, "object": "model"}]})


def completion(text: str, finish_reason: str = "stop") -> Says:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return Says({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})


def look(
    base_url: str, folder: Path, within_s: float = 5.0, key_env: str | None = None, *, child: bool = False
) -> tuple[list[Finding], dict[str, Reading], Context]:
    profile = config.load("desktop", {"label.base_url": base_url, "env.probe_timeout_s": within_s})
    profile = profile.model_copy(update={"label": profile.label.model_copy(update={"api_key_env": key_env})})
    context = Context(profile, folder, frozenset({Role.LABELER}), folder, folder)
    probes = [probe for probe in CAPABILITY.probes(context) if probe.name == "services.teacher"]
    assert len(probes) == 1
    readings = run_probes(probes, folder / "scratch") if child else {probes[0].name: read_here(probes[0])}
    return CAPABILITY.findings(readings, context), readings, context


def read_here(probe: Probe) -> Reading:
    """Read as the child does, without the second it takes to start one."""
    started = time.perf_counter()
    value = read(probe.argument).model_dump(mode="json")
    return Reading(name=probe.name, value=value, error=None, seconds=time.perf_counter() - started)


def the_one(found: list[Finding]) -> Finding:
    (finding,) = found
    assert finding.code == "teacher"
    return finding


@pytest.fixture
def answering(service: Service) -> Service:
    service.says = {"GET /v1/models": LISTED, "POST /v1/chat/completions": completion(LEGS)}
    return service


def test_a_good_teacher_is_told_with_its_speed(answering: Service, tmp_path: Path) -> None:
    found, readings, context = look(f"{answering.url}/v1", tmp_path, child=True)

    assert found == []
    (fact,) = CAPABILITY.facts(readings, context)
    assert fact.value.startswith(f"{MODEL} answers in 0.")
    assert fact.value.endswith("keeps to a JSON schema")
    path, _, body = answering.asked[0]
    assert (path, body["model"]) == ("/v1/chat/completions", MODEL)
    assert body["response_format"]["json_schema"]["schema"]["required"] == ["legs"]


def test_a_server_that_is_down_refuses(tmp_path: Path, service: Service) -> None:
    finding = the_one(look("http://127.0.0.1:1/v1", tmp_path)[0])

    assert finding.evidence == "127.0.0.1:1 refused the connection: nothing listens there"
    assert finding.severity is Severity.ERROR
    assert service.asked == []


def test_a_name_that_does_not_resolve_has_no_way(tmp_path: Path) -> None:
    finding = the_one(look("http://teacher.invalid/v1", tmp_path)[0])

    assert finding.evidence.startswith("no way there, to teacher.invalid:80: ")


@pytest.mark.parametrize("how", [Says(LISTED.body, drip_s=0.3), Says(LISTED.body, hold_s=30.0)])
def test_a_list_of_models_that_only_drips_ends_in_time_and_spoils_nothing(
    how: Says, answering: Service, tmp_path: Path
) -> None:
    answering.says["GET /v1/models"] = how

    found, readings, _ = look(f"{answering.url}/v1", tmp_path, within_s=1.0)

    assert readings["services.teacher"].seconds < 4
    assert found == []


@pytest.mark.parametrize("how", [{"drip_s": 0.3}, {"hold_s": 30.0}])
def test_an_answer_that_only_drips_or_never_comes_ends_in_time(
    how: dict[str, float], answering: Service, tmp_path: Path
) -> None:
    answering.says["POST /v1/chat/completions"] = Says(completion(LEGS).body, **how)

    found, readings, _ = look(f"{answering.url}/v1", tmp_path, within_s=1.5, child=True)

    assert readings["services.teacher"].seconds < 5
    finding = the_one(found)
    assert "answer within" in finding.evidence
    assert "env.probe_timeout_s" in finding.remedy


def test_a_wrong_key_is_told_by_its_variables_name_only(
    answering: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    refusal = Says({"error": {"message": "bad key", "type": "auth"}}, status=401)
    answering.says = {"GET /v1/models": refusal, "POST /v1/chat/completions": refusal}

    found, readings, _ = look(f"{answering.url}/v1", tmp_path, key_env="TEACHER_KEY", child=True)

    finding = the_one(found)
    assert "refused the key with status 401" in finding.evidence
    assert "TEACHER_KEY" in finding.remedy
    assert answering.asked[-1][1]["authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in finding.model_dump_json() + readings["services.teacher"].model_dump_json()


def test_a_key_that_is_not_set_is_named(answering: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)

    finding = the_one(look(f"{answering.url}/v1", tmp_path, key_env="TEACHER_KEY")[0])

    assert finding.evidence == "the environment variable TEACHER_KEY is not set"
    assert answering.asked == []


def test_a_wrong_model_is_told_with_those_that_are_served(answering: Service, tmp_path: Path) -> None:
    answering.says["GET /v1/models"] = Says({"object": "list", "data": [{"id": "llama3:8b"}]})
    answering.says["POST /v1/chat/completions"] = Says({"error": {"message": "model not found"}}, status=404)

    finding = the_one(look(f"{answering.url}/v1", tmp_path)[0])

    assert f"does not serve the model '{MODEL}'" in finding.evidence
    assert finding.evidence.endswith("; it lists llama3:8b")


def test_a_server_that_answers_by_another_model_is_told(answering: Service, tmp_path: Path) -> None:
    answering.says["GET /v1/models"] = Says({"object": "list", "data": [{"id": "other.gguf"}]})

    finding = the_one(look(f"{answering.url}/v1", tmp_path)[0])

    assert finding.severity is Severity.WARNING
    assert "lists only other.gguf" in finding.evidence


def test_a_server_that_lists_nothing_may_still_answer(answering: Service, tmp_path: Path) -> None:
    for listing in (Says({"error": "no"}, status=404), Says(raw=b"<html>"), Says({"data": 7})):
        answering.says["GET /v1/models"] = listing
        assert look(f"{answering.url}/v1", tmp_path)[0] == []


@pytest.mark.parametrize("text", ["A cat has four legs.", '{"feet": 4}', '{"legs": "four"}'])
def test_a_server_that_ignores_the_schema_is_told(text: str, answering: Service, tmp_path: Path) -> None:
    answering.says["POST /v1/chat/completions"] = completion(text)

    finding = the_one(look(f"{answering.url}/v1", tmp_path)[0])

    assert finding.severity is Severity.WARNING
    assert repr(text) in finding.evidence


def test_an_answer_that_was_cut_off_says_nothing_of_the_schema(answering: Service, tmp_path: Path) -> None:
    answering.says["POST /v1/chat/completions"] = completion("<think>Well, a cat", "length")

    assert look(f"{answering.url}/v1", tmp_path)[0] == []


@pytest.mark.parametrize(
    "garbage",
    [
        Says(raw=b"<html>it works</html>"),
        Says(raw=b"\x00\xff\xfe"),
        Says({"choices": []}),
        Says([1, 2]),
        Says({"error": {"message": "out of memory"}}, status=500),
    ],
)
def test_garbage_is_evidence_not_a_crash(garbage: Says, answering: Service, tmp_path: Path) -> None:
    answering.says = dict.fromkeys(("GET /v1/models", "POST /v1/chat/completions"), garbage)

    finding = the_one(look(f"{answering.url}/v1", tmp_path)[0])

    assert finding.severity is Severity.ERROR
    assert finding.cause.startswith("what listens there is not an OpenAI-compatible server")


def test_a_probe_that_was_ended_is_still_the_teachers_finding(tmp_path: Path) -> None:
    _, _, context = look("http://127.0.0.1:1/v1", tmp_path)
    hung: dict[str, Any] = {"services.teacher": Reading(name="x", value=None, error="python ran > 14 s", seconds=14.0)}

    finding = the_one(CAPABILITY.findings(hung, context))

    assert finding.evidence == "python ran > 14 s"
    assert finding.cause == "the service takes connections and does not answer"


def test_a_teacher_in_process_is_not_asked_over_the_network(tmp_path: Path) -> None:
    context = Context(config.load("demo"), tmp_path, frozenset({Role.LABELER}), tmp_path, tmp_path)

    assert [probe.name for probe in CAPABILITY.probes(context)] == ["services.prefect"]
    assert catalogue.model("qwen3-8b").name == "qwen3-8b"


def test_a_status_is_told_once() -> None:
    from core.label.endpoint import _STUTTER

    assert _STUTTER.sub("", "status 500: Error code: 500") == "status 500"
    assert _STUTTER.sub("", "status 500: Error code: 500 - {'a': 1}") == "status 500 - {'a': 1}"
