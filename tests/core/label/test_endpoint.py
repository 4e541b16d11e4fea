"""An endpoint's answers as they come over a real connection, good ones and all kinds of others."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.serving import make_ssl_devcert

from core import catalogue
from core.config import LabelConfig
from core.data.record import Message
from core.errors import TeacherFailed, ToolMissing
from core.label.ask import Problem, completion_of
from core.label.chat_completion import read_completion
from core.label.endpoint import EndpointTeacher, connect, retry_after_s
from core.label.outcome import confidence_of
from core.label.request import Reply, Request, TokenLogprob
from core.label.teachers import Trouble

REQUEST = Request(teacher="t", messages=(Message(role="user", content="Why?"),), temperature=0.0, max_tokens=9, seed=1)


@pytest.fixture
def config(server) -> LabelConfig:
    return LabelConfig(teacher="qwen3-8b", backend="openai", base_url=server.base_url, timeout_s=5.0)


@pytest.fixture
def ask(server, step, config) -> Iterator[Any]:
    teachers: list[EndpointTeacher] = []

    def ask(asked: Request = REQUEST, **what: Any) -> Reply | Trouble:
        teachers.append(connect(catalogue.model("qwen3-8b", None), config))
        server.otherwise = step(**what)
        ((_, outcome),) = teachers[-1].answer([asked])
        return outcome

    yield ask
    for teacher in teachers:
        teacher.close()


def body(message: object = None, usage: object = None, **choice: object) -> bytes:
    said = {"role": "assistant", "content": "So."} if message is None else message
    told = {"index": 0, "message": said, "finish_reason": "stop", **choice}
    return json.dumps({"id": "1", "choices": [told], "usage": usage}).encode()


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "many", "completion_tokens": 1.5},
        {"prompt_tokens": -4, "completion_tokens": 10**40},
        [],
        "no",
        None,
    ],
)
def test_counts_that_are_none_count_nothing(usage: object) -> None:
    reply = read_completion(body(usage=usage), 1.0)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("So.", 0, 0)


@pytest.mark.parametrize(
    ("said", "shows"),
    [
        (b"<html>Please log in</html>", "<html>Please log in</html>"),
        (b'{"error": {"message": "upstream is overloaded", "code": 502}}', "upstream is overloaded"),
        (b'{"choices": {"0": {}}}', "choices"),
        (b'{"choices": [7]}', "choices.0"),
        (b'{"choices": []}', "no choice"),
        (b"[]", "it begins: []"),
        (b"", "no JSON"),
        (b"\xff\xfe", "no UTF-8 at byte 0"),
        (b"[" * 100_000, "deep"),
        (body({"content": "\ud83d"}), "surrogate"),
        (body({"content": {"text": "So."}}), "content"),
        (body("So."), "message"),
        (body({"content": "", "tool_calls": [{"function": "weather"}]}), "tool call"),
        (body(finish_reason=["stop"]), "finish_reason"),
        (body(finish_reason="error"), "finish_reason is error"),
        (body(logprobs={"content": [{"token": None, "logprob": 0}]}), "token"),
        (body(logprobs={"content": [{"token": "a", "logprob": float("nan")}]}), "NaN"),
        (body(logprobs={"content": [{"token": "a", "logprob": 12.5}]}), "logprob"),
        (body(logprobs={"content": [{"token": "a", "logprob": 10**400}]}), "logprob"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_completion_is_told_with_what_it_is(said: bytes, shows: str) -> None:
    trouble = read_completion(said, 1.0)
    assert isinstance(trouble, Trouble)
    assert trouble.retryable
    assert shows in trouble.reason
    assert len(trouble.reason) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["message", "content", "token"]), inner),
    max_leaves=8,
)


@given(st.binary(max_size=40) | st.builds(lambda *of: body(of[0], of[1], logprobs=of[2], finish_reason=of[3]), *[JSON] * 4))
def test_no_body_whatsoever_is_more_than_a_trouble_and_a_reply_can_be_stored(said: bytes) -> None:
    outcome = read_completion(said, 1.0)
    outcome.model_dump_json().encode()
    assert isinstance(outcome, Trouble) or 0 <= outcome.prompt_tokens < 2**63 > outcome.completion_tokens >= 0


def test_a_probability_that_rounding_carried_above_one_is_one() -> None:
    reply = read_completion(body(logprobs={"content": [{"token": "a", "logprob": 1e-6}]}), 1.0)
    assert isinstance(reply, Reply)
    assert confidence_of(reply) == 1.0


@pytest.mark.parametrize("logprob", [800.0, 1e308])
def test_how_sure_a_teacher_was_is_a_probability_whatever_an_older_ledger_holds(logprob: float) -> None:
    tokens = (TokenLogprob(token=1, text="a", logprob=logprob, top=()),) * 2
    reply = Reply(text="a", finish_reason="stop", prompt_tokens=1, completion_tokens=2, latency_ms=1.0, logprobs=tokens)
    assert confidence_of(reply) == 1.0


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (body({"content": None, "refusal": "I cannot help with that."}), "teacher-filter"),
        (body(finish_reason="SAFETY"), "teacher-filter"),
        (body(finish_reason="model_length"), "teacher-length"),
        (body({"content": " \n"}), "teacher-empty"),
        (body({"content": []}), "teacher-empty"),
    ],
)
def test_refusals_and_cut_answers_are_known_by_the_names_other_endpoints_give_them(said: bytes, code: str) -> None:
    reply = read_completion(said, 1.0)
    assert isinstance(reply, Reply)
    problem = completion_of(reply, None)
    assert isinstance(problem, Problem)
    assert problem.code == code


def test_a_text_in_parts_is_put_together_without_the_thoughts() -> None:
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "So "}, {"type": "text", "text": "it is."}]
    reply = read_completion(body({"content": parts}), 1.0)
    assert isinstance(reply, Reply)
    assert reply.text == "So it is."


def test_a_body_that_would_unpack_to_any_size_is_not_unpacked(ask) -> None:
    bomb = gzip.compress(b'{"choices": [{"message": {"content": "' + b" " * (80 << 20))
    trouble = ask(body=bomb, headers={"Content-Encoding": "gzip"})
    assert isinstance(trouble, Trouble)
    assert "packed as gzip" in trouble.reason


def test_closing_ends_what_waits_for_an_answer_behind_tls_too(server, step, config, monkeypatch, tmp_path) -> None:
    certificate, key = make_ssl_devcert(str(tmp_path / "tls"), host="localhost")
    server.speak_tls(certificate, key)
    server.otherwise = step(wait_s=20.0)
    monkeypatch.setenv("SSL_CERT_FILE", certificate)
    url = server.base_url.replace("http://127.0.0.1", "https://localhost")
    teacher = connect(catalogue.model("qwen3-8b", None), config.model_copy(update={"base_url": url, "timeout_s": 60.0}))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(lambda: list(teacher.answer([REQUEST])))
        while not server.sent:
            assert not asked.done(), asked.result()
            time.sleep(0.02)
        time.sleep(0.3)  # so that it waits for the answer
        began = time.perf_counter()
        teacher.close()
        ((_, trouble),) = asked.result()
    assert time.perf_counter() - began < 5
    assert isinstance(trouble, Trouble)


def test_a_connection_that_breaks_says_how(config) -> None:
    closed = config.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    teacher = connect(catalogue.model("qwen3-8b", None), closed)
    ((_, trouble),) = teacher.answer([REQUEST])
    teacher.close()
    assert isinstance(trouble, Trouble)
    assert "Connection refused" in trouble.reason


def test_a_prompt_that_is_no_text_is_a_trouble_of_its_own(ask) -> None:
    broken = REQUEST.model_copy(update={"messages": (Message(role="user", content="half \ud83d"),)})
    assert isinstance(ask(broken), Trouble)


def test_an_error_text_with_half_a_character_can_be_stored(ask) -> None:
    trouble = ask(status=422, body=b'{"error": {"message": "no \\ud83d here"}}')
    assert isinstance(trouble, Trouble)
    assert "no ? here" in trouble.reason


@pytest.mark.parametrize("key", ["sk-hunter2hunter2 \u2028x", "sk-hunter2\nhunter2", "sk-hunter2 é", "   "])
def test_a_key_that_cannot_be_sent_is_said_before_anything_is_and_not_shown(
    config, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("TEACHER_KEY", key)
    with pytest.raises(ToolMissing, match="TEACHER_KEY") as refused:
        connect(catalogue.model("qwen3-8b", None), config.model_copy(update={"api_key_env": "TEACHER_KEY"}))
    assert "hunter2" not in str(refused.value)


def test_a_line_break_behind_a_key_is_no_part_of_it(server, config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "sk-hunter2hunter2\n")
    teacher = connect(catalogue.model("qwen3-8b", None), config.model_copy(update={"api_key_env": "TEACHER_KEY"}))
    ((_, reply),) = teacher.answer([REQUEST])
    teacher.close()
    assert isinstance(reply, Reply)


def test_a_model_that_is_not_there_is_told_whatever_the_status(ask) -> None:
    with pytest.raises(TeacherFailed, match="does not serve the model"):
        ask(status=400, body=b'{"error": {"message": "no such model", "code": "model_not_found"}}')


def test_an_endpoint_that_sends_requests_on_is_not_followed(ask, server) -> None:
    with pytest.raises(TeacherFailed, match=f"with status 307, to '{server.base_url}/elsewhere'"):
        ask(status=307, headers={"Location": f"{server.base_url}/elsewhere"})
    assert len(server.sent) == 1


ODD_DATES = st.builds(
    "{}, {} {} {} {}:{} {}".format,
    *[st.sampled_from(["Wed", ""]), st.integers(0, 99), st.sampled_from(["Oct", "Foo"]), st.integers(0, 10**5)],
    *[st.integers(0, 99), st.integers(0, 99), st.sampled_from(["GMT", "-0000", "+9999", "+99999999"])],
)


@given(st.text(max_size=12) | ODD_DATES | st.floats().map(str) | st.integers().map(str))
def test_whatever_a_header_asks_for_is_some_time_or_none(header: str) -> None:
    seconds = retry_after_s(header, datetime(2026, 1, 1, tzinfo=UTC))
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize("hours", [-6, 6])
def test_a_date_to_wait_for_is_taken_by_the_endpoints_clock_not_by_ours(ask, monkeypatch, hours: int) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(hours=hours)

    monkeypatch.setattr("core.label.endpoint.datetime", Wrong)
    trouble = ask(status=503, headers={"Retry-After": format_datetime(datetime.now(UTC) + timedelta(minutes=2))})
    assert isinstance(trouble, Trouble)
    assert trouble.retry_after_s == pytest.approx(120, abs=5)


def test_an_empty_account_is_told_whatever_the_status(ask) -> None:
    with pytest.raises(TeacherFailed, match="quota is used up"):
        ask(status=402, body=b'{"error": {"message": "Insufficient Balance"}}')


def test_a_prompt_that_is_forbidden_is_no_wrong_key(ask) -> None:
    trouble = ask(status=403, body=b'{"error": {"message": "Your input was flagged by moderation"}}')
    assert isinstance(trouble, Trouble)
    assert (trouble.code, trouble.retryable) == ("teacher-filter", False)


def test_a_field_that_is_null_in_extra_body_is_left_out_and_others_take_the_place_of_ours(ask, server) -> None:
    own = {"max_tokens": None, "seed": None, "max_completion_tokens": 50, "temperature": 1.0}
    assert isinstance(ask(REQUEST.model_copy(update={"extra_body": own})), Reply)
    sent = server.sent[-1].body
    assert not {"max_tokens", "seed"} & sent.keys()
    assert (sent["max_completion_tokens"], sent["temperature"]) == (50, 1.0)


@pytest.mark.parametrize("structure", [None, {"type": "json_object"}])
def test_an_endpoint_that_refuses_schemas_is_asked_without_and_only_where_there_is_one(ask, server, structure) -> None:
    own = {"extra_body": {"response_format": structure}}
    assert isinstance(ask(REQUEST.model_copy(update=own)), Reply)
    assert "response_format" not in server.sent[-1].body
    assert isinstance(ask(REQUEST.model_copy(update=own | {"answer_schema": {"type": "object"}})), Reply)
    assert server.sent[-1].body.get("response_format") == structure


def test_a_schema_is_sent_as_openai_and_ollama_read_it(ask, server) -> None:
    schema = {"type": "object", "required": ["n"]}
    assert isinstance(ask(REQUEST.model_copy(update={"answer_schema": schema})), Reply)
    # Ollama takes the schema inside as its own `format`; llama-server makes a grammar of it
    sent = server.sent[-1].body["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]) == ("json_schema", schema)


@pytest.mark.parametrize("field", ["stream", "n", "messages", "model", "tools"])
def test_what_edgekiln_says_itself_is_no_field_of_the_endpoint_s_own(config, field: str) -> None:
    with pytest.raises(ValueError, match=field):
        LabelConfig.model_validate(config.model_dump() | {"extra_body": {field: True}})


@pytest.mark.parametrize(
    ("headers", "waits_s"),
    [
        ({}, 1.0),
        ({"Retry-After": "3"}, 3.0),
        ({"Retry-After-Ms": "250", "Retry-After": "3"}, 0.25),
        ({"Retry-After": "x"}, 1.0),
        ({"Retry-After-Ms": "1"}, 0.05),
    ],
)
def test_who_has_too_much_to_do_is_given_time_though_none_is_named(ask, headers: dict[str, str], waits_s: float) -> None:
    trouble = ask(status=429, headers=headers)
    assert isinstance(trouble, Trouble)
    assert trouble.retry_after_s == waits_s
