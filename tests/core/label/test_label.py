"""The label stage against a real HTTP server that misbehaves by a script."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from random import Random

import pytest

from core.config import LabelConfig
from core.contract import Stage
from core.data.privacy import NamesUnknown, redact
from core.data.record import read_labeled
from core.errors import (
    BadConfig,
    BudgetReached,
    DataError,
    EdgekilnError,
    Interrupted,
    NoRowsLeft,
    TeacherFailed,
    ToolMissing,
)
from core.events import Note, Progress, Resumed, StageReused
from core.files import read_json_lines
from core.label.label import label
from core.label.ledger import open_ledger

FILES = ("train.jsonl", "held_out.jsonl", "unanswered.jsonl")
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture
def config(server) -> LabelConfig:
    return LabelConfig(
        teacher="qwen3-8b", backend="openai", base_url=server.base_url, max_tokens=40, attempts=2, timeout_s=5.0
    )


def _files(workspace, artifact) -> dict[str, bytes]:
    folder = workspace.folder(Stage.LABEL, artifact.artifact_id)
    return {name: (folder / name).read_bytes() for name in FILES}


def _unanswered(workspace, artifact_id: str) -> list[dict]:
    return list(read_json_lines(workspace.folder(Stage.LABEL, artifact_id) / "unanswered.jsonl"))


def _only(workspace) -> str:
    (folder,) = (workspace.root / "artifacts" / "label").iterdir()
    return folder.name


def test_every_prompt_gets_its_answer_in_the_order_of_the_dataset(
    workspace, events, server, step, config, make_dataset, make_rows
) -> None:
    server.otherwise = step(wait_s=0.05)
    artifact = label(make_dataset(workspace, make_rows(16)), config, workspace, events.append)
    rows = list(read_labeled(workspace.folder(Stage.LABEL, artifact.artifact_id) / "train.jsonl"))
    assert [row.row_id for row in rows] == [f"r{i:03}" for i in range(16) if i % 4 != 3]
    assert rows[0].messages[-1].content == "Answer to <Question 000?>."
    assert (artifact.train_rows, artifact.held_out_rows, artifact.unanswered) == (12, 4, 0)
    assert (artifact.asked, artifact.reused, artifact.prompt_tokens, artifact.completion_tokens) == (16, 0, 112, 48)
    assert 1 < server.most_at_once <= config.concurrency
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (16, 16)
    assert server.sent[0].body["model"] == "Qwen/Qwen3-8B"
    assert len({request.key for request in server.sent}) == 16


def test_the_second_run_reuses_the_artifact_and_another_dataset_pays_only_for_what_is_new(
    workspace, events, server, config, make_dataset, make_rows
) -> None:
    rows = make_rows(12)
    first = label(make_dataset(workspace, rows), config, workspace)
    again = label(make_dataset(workspace, rows), config, workspace, events.append)
    assert again.artifact_id == first.artifact_id
    assert any(isinstance(event, StageReused) for event in events)
    assert len(server.sent) == 12
    changed = [*rows[:-1], rows[-1].model_copy(update={"user": "Something else?"})]
    other = label(make_dataset(workspace, changed), config, workspace, events.append)
    assert (other.asked, other.reused) == (1, 11)
    assert len(server.sent) == 13
    assert any(isinstance(event, Resumed) and event.done == 11 for event in events)


def test_rows_that_ask_the_same_are_asked_once(workspace, server, config, make_dataset, make_rows) -> None:
    rows = [row.model_copy(update={"user": "The same?"}) for row in make_rows(8)]
    artifact = label(make_dataset(workspace, rows), config, workspace)
    assert len(server.sent) == 1
    assert artifact.train_rows + artifact.held_out_rows == 8


def test_a_completion_of_the_source_is_taken_without_asking(workspace, server, config, make_dataset, make_rows) -> None:
    artifact = label(make_dataset(workspace, make_rows(8, completion="Given.")), config, workspace)
    assert server.sent == []
    assert artifact.train_rows == 6
    assert b"Given." in _files(workspace, artifact)["held_out.jsonl"]


def test_passing_troubles_end_in_the_same_files_as_a_good_day(
    workspace, server, step, config, make_dataset, make_rows, tmp_path
) -> None:
    from core.workspace import open_workspace

    calm = open_workspace(tmp_path / "calm")
    expected = _files(calm, label(make_dataset(calm, make_rows(12)), config, calm))
    server.sent.clear()
    server.script = {
        "Question 000?": [step(status=429, headers={"Retry-After": "0"})],
        "Question 001?": [step(status=500)],
        "Question 002?": [step(drop_after=30)],
        "Question 003?": [step(body=b'{"id": "1", "choices": [{"index"')],
        "Question 004?": [step(body=b"<html>busy</html>", content_type="text/html")],
        "Question 005?": [step(body=b'{"id": "1", "choices": []}')],
        "Question 006?": [step(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})],
    }
    artifact = label(make_dataset(workspace, make_rows(12)), config, workspace)
    assert _files(workspace, artifact) == expected
    assert artifact.asked == len(server.sent) == 19


def test_an_endpoint_is_given_the_time_it_asks_for(workspace, server, step, config, make_dataset, make_rows) -> None:
    server.script = {"Question 000?": [step(status=429, headers={"Retry-After": "1"})]}
    started = time.perf_counter()
    label(make_dataset(workspace, make_rows(4)), config, workspace)
    assert time.perf_counter() - started >= 1.0


def test_a_slow_answer_is_given_up_after_the_timeout_and_asked_again(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {"Question 000?": [step(wait_s=1.5)]}
    quick = config.model_copy(update={"timeout_s": 0.3})
    assert label(make_dataset(workspace, make_rows(4)), quick, workspace).unanswered == 0
    assert len(server.sent) == 5


def test_an_answer_that_drips_in_is_given_up_after_the_timeout_as_a_whole(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {"Question 000?": [step(drip_s=0.2)]}
    quick = config.model_copy(update={"timeout_s": 0.8})
    started = time.perf_counter()
    assert label(make_dataset(workspace, make_rows(4)), quick, workspace).unanswered == 0
    assert time.perf_counter() - started < 4.0
    assert len(server.sent) == 5


def test_an_answer_that_comes_twice_is_the_answer_of_its_own_question_alone(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.otherwise = step(twice=True)
    serial = config.model_copy(update={"concurrency": 1})
    artifact = label(make_dataset(workspace, make_rows(12)), serial, workspace)
    rows = list(read_labeled(workspace.folder(Stage.LABEL, artifact.artifact_id) / "train.jsonl"))
    assert [row.messages[-1].content for row in rows] == [f"Answer to <{row.messages[0].content}>." for row in rows]


def test_an_answer_without_end_is_refused_before_it_fills_the_memory(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {"Question 000?": [step(body=b" " * (65 << 20))]}
    artifact = label(make_dataset(workspace, make_rows(4)), config, workspace)
    assert (artifact.unanswered, artifact.asked) == (0, 5)


def test_an_answer_that_was_cut_is_asked_once_more_for_shorter_then_set_aside(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    cut = step(text="An answer that", finish_reason="length")
    server.script = {"Question 000?": [cut], "Question 001?": [cut, cut]}
    artifact = label(make_dataset(workspace, make_rows(12)), config, workspace)
    (reject,) = _unanswered(workspace, artifact.artifact_id)
    assert (reject["where"], reject["code"]) == ("r001", "teacher-length")
    assert artifact.metrics["failed_share"] == pytest.approx(1 / 12)
    again = label(make_dataset(workspace, make_rows(12)), config.model_copy(update={"concurrency": 1}), workspace)
    assert again.artifact_id == artifact.artifact_id
    assert len(server.sent) == 14


def test_an_ignored_schema_is_noticed_and_the_fault_is_shown_to_the_teacher(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    rows = make_rows(8, requires_json=True, tool_schema=SCHEMA)
    server.otherwise = step(text='{"n": 4}')
    server.script = {
        "Question 000?": [step(text="Sure, four!")],
        "Question 001?": [step(text='{"n": "four"}')],
        "That does not fit": [step(text='{"n": 5}'), step(text="Still four!")],
    }
    artifact = label(make_dataset(workspace, rows), config.model_copy(update={"concurrency": 1}), workspace)
    assert [reject["code"] for reject in _unanswered(workspace, artifact.artifact_id)] == ["teacher-json"]
    assert server.sent[0].body["response_format"]["json_schema"]["schema"] == SCHEMA
    assert b'{\\"n\\": 5}' in _files(workspace, artifact)["train.jsonl"]


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [(401, None, "TEACHER_KEY"), (404, None, "does not serve"), (429, "insufficient_quota", "quota")],
)
def test_what_no_retry_can_mend_is_told_once(
    workspace, server, step, config, make_dataset, make_rows, monkeypatch, status, code, says
) -> None:
    monkeypatch.setenv("TEACHER_KEY", "wrong")
    server.otherwise = step(status=status, text=code)
    wrong = config.model_copy(update={"api_key_env": "TEACHER_KEY"})
    with pytest.raises(TeacherFailed, match=says) as caught:
        label(make_dataset(workspace, make_rows(40)), wrong, workspace)
    assert (caught.value.exit_status, caught.value.retryable) == (6, False)
    assert len(server.sent) <= config.concurrency
    assert not (workspace.root / "artifacts" / "label").exists()
    server.otherwise = step()
    assert label(make_dataset(workspace, make_rows(40)), wrong, workspace).unanswered == 0


@pytest.mark.parametrize("ending", ["", "\n"])
@pytest.mark.parametrize("status", [401, 422, 500])
def test_a_key_that_the_endpoint_repeats_is_neither_told_nor_stored(
    workspace, server, step, config, make_dataset, make_rows, monkeypatch, status, ending
) -> None:
    monkeypatch.setenv("TEACHER_KEY", f"sk-hunter2hunter2{ending}")
    server.otherwise = step(status=status, body=b'{"error": {"message": "bad key Bearer sk-hunter2hunter2"}}')
    echoed = config.model_copy(update={"api_key_env": "TEACHER_KEY", "attempts": 1})
    with pytest.raises(EdgekilnError) as refused:
        label(make_dataset(workspace, make_rows(10)), echoed, workspace)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))  # which Prefect logs
    assert not [path for path in workspace.root.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


def test_a_teacher_that_is_down_is_told_once_and_the_next_run_asks_what_is_missing(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.otherwise = step(status=500)
    server.script = {f"Question {i:03}?": [step()] for i in range(5)}
    once = config.model_copy(update={"attempts": 1, "patience_s": 0.0, "concurrency": 4})
    with pytest.raises(TeacherFailed, match="in a row"):
        label(make_dataset(workspace, make_rows(60)), once, workspace)
    # a good answer that comes late starts the count of eight anew
    assert len(server.sent) <= 5 + 2 * 8 + once.concurrency
    server.otherwise = step()
    before = len(server.sent)
    artifact = label(make_dataset(workspace, make_rows(60)), once, workspace)
    assert artifact.reused == 5
    assert len(server.sent) - before == 55


def test_too_many_unanswered_rows_are_published_refused_and_asked_again(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {f"Question {i:03}?": [step(status=500)] for i in range(3)}
    once = config.model_copy(update={"attempts": 1})
    with pytest.raises(TeacherFailed, match=r"3 of 12 rows got no answer: (25% > 20%|more than 20%), label"):
        label(make_dataset(workspace, make_rows(12)), once, workspace)
    left = len(_unanswered(workspace, _only(workspace)))  # those that failed, and those nobody asked any more
    assert left >= 3
    artifact = label(make_dataset(workspace, make_rows(12)), once, workspace)
    assert (artifact.unanswered, artifact.reused, artifact.asked) == (0, 12 - left, left)
    assert artifact.verdict.passed


def test_rows_with_broken_schemas_are_the_data_s_fault(workspace, server, config, make_dataset, make_rows) -> None:
    with pytest.raises(DataError, match="bad-schema"):
        label(make_dataset(workspace, make_rows(8, requires_json=True, tool_schema={"type": 7})), config, workspace)
    assert server.sent == []


def test_a_split_without_a_row_is_refused(workspace, config, make_dataset, make_rows) -> None:
    rows = [row for row in make_rows(8) if row.split == "train"]
    with pytest.raises(NoRowsLeft, match="0 held out < 1"):
        label(make_dataset(workspace, rows), config, workspace)


def test_a_configuration_that_cannot_ask_is_refused_before_anything_happens(
    workspace, config, make_dataset, make_rows
) -> None:
    dataset = make_dataset(workspace, make_rows(8))
    with pytest.raises(BadConfig, match="behind an endpoint"):
        label(dataset, config.model_copy(update={"backend": "llama-cpp"}), workspace)
    with pytest.raises(ToolMissing, match="NOT_SET_ANYWHERE"):
        label(dataset, config.model_copy(update={"api_key_env": "NOT_SET_ANYWHERE"}), workspace)


def test_an_interrupt_ends_soon_and_leaves_the_ledger_true(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    dataset = make_dataset(workspace, make_rows(12))
    server.script = {f"Question {i:03}?": [step()] for i in range(4)}
    server.otherwise = step(wait_s=20.0)
    patient = config.model_copy(update={"timeout_s": 60.0})

    def interrupt(*_: object) -> None:
        raise Interrupted("stopped", remedy="Run again.")

    def press() -> None:
        while len(server.sent) < 4:
            time.sleep(0.02)
        time.sleep(1.0)
        pressed.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGUSR1)

    pressed: list[float] = []
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Thread(target=press, daemon=True).start()
        with pytest.raises(Interrupted):
            label(dataset, patient, workspace)
        assert time.perf_counter() - pressed[0] < 8
    finally:
        signal.signal(signal.SIGUSR1, before)
    with open_ledger(workspace.ledger("label")) as ledger:
        answered = ledger.counts()["answered"]
    assert answered <= 4  # which questions get a place first is nobody's affair, but none of the slow ones is answered
    server.otherwise = step()
    assert label(dataset, patient, workspace).reused == answered


CHILD = """
import sys
from pathlib import Path
from core.config import LabelConfig
from core.events import ignore
from core.label.label import label
from core.nouns import Dataset
from core.contract import Stage
from core.workspace import open_workspace, read_manifest
root, artifact_id, base_url = sys.argv[1:]
workspace = open_workspace(Path(root))
dataset = read_manifest(workspace, Stage.DATA, artifact_id, Dataset)
config = LabelConfig(teacher="qwen3-8b", backend="openai", base_url=base_url, max_tokens=40, concurrency=4)
label(dataset, config, workspace, lambda event: print(event.model_dump_json(), flush=True))
"""


@pytest.mark.parametrize("killed_at", [9, 34])
def test_a_killed_labelling_sends_again_at_most_what_was_in_flight(
    workspace, server, step, make_dataset, make_rows, tmp_path, killed_at
) -> None:
    _killed_and_finished(workspace, server, step, make_dataset(workspace, make_rows(48)), [killed_at])
    _equal_to_a_calm_day(workspace, server, make_dataset, make_rows(48), tmp_path)


@pytest.mark.full
def test_a_labelling_killed_at_twenty_random_moments_loses_and_repeats_nothing(
    workspace, server, step, make_dataset, make_rows, tmp_path
) -> None:
    moments = sorted(Random(5).sample(range(2, 290), 20))
    _killed_and_finished(workspace, server, step, make_dataset(workspace, make_rows(300)), moments)
    _equal_to_a_calm_day(workspace, server, make_dataset, make_rows(300), tmp_path)


def _killed_and_finished(workspace, server, step, dataset, moments) -> None:
    """Kill a labelling whenever so many requests arrived, then let it finish; what was sent twice was in flight."""
    server.otherwise = step(wait_s=0.03)
    argv = [sys.executable, "-c", CHILD, str(workspace.root), dataset.artifact_id, server.base_url]
    for moment in moments:
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as child:
            while len(server.sent) < moment:
                assert child.poll() is None
                time.sleep(0.002)
            child.kill()
    assert not (workspace.root / "artifacts" / "label").exists()
    told = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert '"resumed"' in told
    again = Counter(request.key for request in server.sent)
    assert sum(count - 1 for count in again.values()) <= 4 * len(moments)


def _equal_to_a_calm_day(workspace, server, make_dataset, rows, tmp_path) -> None:
    from core.workspace import open_workspace

    calm = open_workspace(tmp_path / "calm")
    config = LabelConfig(teacher="qwen3-8b", backend="openai", base_url=server.base_url, max_tokens=40, concurrency=1)
    undisturbed = label(make_dataset(calm, rows), config, calm)
    assert _only(workspace) == undisturbed.artifact_id
    assert _files(workspace, undisturbed) == _files(calm, undisturbed)


def test_requests_that_were_in_flight_at_a_kill_are_told(
    workspace, events, server, config, make_dataset, make_rows
) -> None:
    from core.label.ask import first_request

    rows = make_rows(8)
    with open_ledger(workspace.ledger("label")) as ledger:
        ledger.begin(first_request(rows[0], "endpoint:Qwen/Qwen3-8B", config))
    label(make_dataset(workspace, rows), config, workspace, events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes == ["1 request was under way when an earlier process ended; sent again"]


def test_a_retry_after_header_is_read_as_seconds_or_a_date() -> None:
    from datetime import UTC, datetime

    from core.label.endpoint import retry_after_s

    now = datetime(2015, 10, 21, 7, 27, 30, tzinfo=UTC)
    assert retry_after_s("2.5", now) == 2.5
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT", now) == 30.0
    assert retry_after_s("Wed, 21 Oct 2015 07:00:00 GMT", now) == 0.0
    assert [retry_after_s(header, now) for header in (None, "", "soon", "inf", "nan")] == [None] * 5


def test_tools_are_offered_and_a_call_is_the_answer(workspace, server, step, config, make_dataset, make_rows) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Québec"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = {"id": "1", "object": "chat.completion", "choices": [choice], "usage": {}}
    server.script["Question 000"] = [step(body=json.dumps(body).encode())]
    rows = make_rows(
        4, tools=(tool,), history=({"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hi."})
    )
    rows.append(rows[0].model_copy(update={"row_id": "given", "completion": "", "answer_tool_calls": (call,)}))

    artifact = label(make_dataset(workspace, rows), config, workspace)

    assert all(sent.body["tools"] == [tool] for sent in server.sent)
    assert [message["role"] for message in server.sent[0].body["messages"]] == ["user", "assistant", "user"]
    trained = list(read_labeled(workspace.folder(Stage.LABEL, artifact.artifact_id) / "train.jsonl"))
    assert [row.messages[-1].tool_calls for row in trained] == [(call,), (), (), (call,)]
    assert trained[0].messages[-1].content == ""
    assert all(row.tools == (tool,) for row in trained)


def test_a_tool_call_without_a_name_is_asked_again(workspace, server, step, config, make_dataset, make_rows) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {}}]}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    server.script["Question 000"] = [step(body=body)]

    artifact = label(make_dataset(workspace, make_rows(4)), config, workspace)

    assert (artifact.unanswered, artifact.asked) == (0, 5)


def test_a_teacher_that_comes_back_is_waited_for_and_no_row_is_lost(
    workspace, events, server, step, config, make_dataset, make_rows
) -> None:
    server.otherwise = step(wait_s=0.1)  # progress is told five times a second, and it must not be over then

    def back() -> None:
        time.sleep(1.5)
        server.otherwise = step()

    def hear(event: object) -> None:
        events.append(event)
        if isinstance(event, Progress) and event.done >= 10 and not gone:
            gone.append(time.perf_counter())
            server.otherwise = step(status=503)
        if event.kind == "paused":  # however long eight failures in a row take a busy machine
            threading.Thread(target=back, daemon=True).start()

    gone: list[float] = []
    artifact = label(make_dataset(workspace, make_rows(60)), config, workspace, hear)

    assert gone
    assert (artifact.unanswered, artifact.train_rows + artifact.held_out_rows) == (0, 60)
    kinds = [event.kind for event in events if event.kind in {"paused", "continued"}]
    assert kinds == ["paused", "continued"]
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert (last.done, last.total) == (60, 60)
    # between the pause and the return only single requests try the door
    assert len(server.sent) <= 60 + 8 + config.concurrency + 4


def test_an_endpoint_that_comes_back_by_asking_for_time_is_given_it_and_gone_on_with(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    busy = step(status=429, headers={"Retry-After": "0.5"})
    server.script = {f"Question {number:03}?": [step(status=503), busy] for number in range(1, 9)}
    serial = config.model_copy(update={"patience_s": 8.0, "attempts": 1, "concurrency": 1})
    assert label(make_dataset(workspace, make_rows(12)), serial, workspace).unanswered == 0


def test_an_endpoint_that_limits_its_rate_loses_no_row_however_often_it_says_so(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    busy = step(status=429, headers={"Retry-After": "0.05"})
    server.script = {f"Question {number:03}?": [busy] * 5 for number in range(0, 40, 2)}
    artifact = label(make_dataset(workspace, make_rows(40)), config, workspace)
    assert (artifact.unanswered, artifact.asked) == (0, 40 + 20 * 5)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error": {"message": "maximum context length is 4096 tokens", "code": "context_length_exceeded"}}', "context"),
        (b'{"error": {"message": "blocked", "code": "content_filter"}}', "filter"),
        (b'{"error": {"message": "no such parameter", "code": null}}', "refused"),
    ],
)
def test_a_refusal_that_no_retry_can_mend_is_recognised_and_told_once(
    workspace, events, server, step, config, make_dataset, make_rows, body, code
) -> None:
    server.script = {f"Question {number:03}?": [step(status=400, body=body)] for number in range(4)}
    artifact = label(make_dataset(workspace, make_rows(40)), config, workspace, events.append)
    assert [reject["code"] for reject in _unanswered(workspace, artifact.artifact_id)] == [f"teacher-{code}"] * 4
    assert len(server.sent) == 40
    told = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert len(told) == 1
    assert "status 400" in told[0]


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ({"max_requests": 10}, r"10 >= 10, label\.budget\.max_requests"),
        ({"max_tokens": 95}, r"label\.budget\.max_tokens"),
        ({"max_cost": 0.0001}, r"label\.budget\.max_cost"),
    ],
)
def test_a_budget_stops_the_labelling_and_a_larger_one_goes_on_with_it(
    workspace, server, config, make_dataset, make_rows, budget, says
) -> None:
    prices = {"prompt_per_million": 1.0, "completion_per_million": 1.0, "currency": "EUR"}
    dataset = make_dataset(workspace, make_rows(40))
    poor = LabelConfig.model_validate(config.model_dump() | {"budget": budget, "prices": prices, "concurrency": 2})

    with pytest.raises(BudgetReached, match=says) as stopped:
        label(dataset, poor, workspace)
    assert stopped.value.exit_status == 7
    asked = len(server.sent)
    assert 10 <= asked <= 12
    with open_ledger(workspace.ledger("label")) as ledger:
        assert ledger.sessions()[0].done == ledger.counts()["answered"] == asked
    with pytest.raises(BudgetReached):
        label(dataset, poor, workspace)
    assert len(server.sent) == asked

    rich = LabelConfig.model_validate(config.model_dump() | {"prices": prices})
    artifact = label(dataset, rich, workspace)
    assert len(server.sent) == 40
    assert (artifact.reused, artifact.currency) == (asked, "EUR")
    assert artifact.cost == pytest.approx(40 * 10 / 1e6)


@pytest.mark.parametrize("budget", [{"max_tokens": 1000}, {"max_cost": 1.0}])
def test_a_budget_that_the_endpoint_s_silence_would_never_end_is_told_as_that(
    workspace, server, step, config, make_dataset, make_rows, budget
) -> None:
    message = {"role": "assistant", "content": "So."}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    server.otherwise = step(body=body)
    prices = {"prompt_per_million": 1.0, "completion_per_million": 1.0}
    dataset = make_dataset(workspace, make_rows(40))
    limited = LabelConfig.model_validate(config.model_dump() | {"budget": budget, "prices": prices, "concurrency": 2})
    with pytest.raises(BudgetReached, match=rf"no token counts.*label\.budget\.{next(iter(budget))}") as stopped:
        label(dataset, limited, workspace)
    assert "label.budget.max_requests" in stopped.value.remedy
    assert len(server.sent) <= 4
    free = LabelConfig.model_validate(config.model_dump() | {"prices": prices})
    assert label(dataset, free, workspace).cost is None


def test_of_several_samples_the_one_the_others_resemble_is_learned_and_all_are_kept(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {
        "Question 000?": [step(text="Blue, of course."), step(text="Potato."), step(text="Blue, of course!")],
        "Question 001?": [step(text="Only this.", finish_reason="stop"), step(text=""), step(text="")],
    }
    settings = {"samples": {"count": 3, "choice": "agreement"}, "temperature": 0.7, "concurrency": 1}
    sampled = LabelConfig.model_validate(config.model_dump() | settings)
    artifact = label(make_dataset(workspace, make_rows(8)), sampled, workspace)

    folder = workspace.folder(Stage.LABEL, artifact.artifact_id)
    first, second, *_ = read_labeled(folder / "train.jsonl")
    assert first.messages[-1].content == "Blue, of course."
    assert 0.3 < first.consistency < 0.7
    assert (second.messages[-1].content, second.consistency) == ("Only this.", None)
    samples = [record for record in read_json_lines(folder / "samples.jsonl") if record["row_id"] == "r000"]
    assert [(record["completion"], record["chosen"]) for record in samples] == [
        ("Blue, of course.", True),
        ("Potato.", False),
        ("Blue, of course!", False),
    ]
    assert len({request.body["seed"] for request in server.sent}) == 3
    assert len(list(read_json_lines(folder / "samples.jsonl"))) == 24


def test_log_probabilities_are_kept_beside_the_text_and_say_how_sure_the_teacher_was(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    import pyarrow.parquet as pq

    token = {
        "token": "Blue",
        "id": 5,
        "logprob": -0.7,
        "bytes": [66],
        "top_logprobs": [
            {"token": "Blue", "id": 5, "logprob": -0.7, "bytes": [66]},
            {"token": "Red", "id": 9, "logprob": -1.2, "bytes": [82]},
        ],
    }
    choice = {"index": 0, "message": {"role": "assistant", "content": "Blue"}, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "choices": [{**choice, "logprobs": {"content": [token]}}], "usage": {}}
    server.otherwise = step(body=json.dumps(body).encode())
    sure = config.model_copy(update={"top_logprobs": 2})
    artifact = label(make_dataset(workspace, make_rows(8)), sure, workspace)

    folder = workspace.folder(Stage.LABEL, artifact.artifact_id)
    assert server.sent[0].body["top_logprobs"] == 2
    assert server.sent[0].body["logprobs"] is True
    first = next(iter(read_labeled(folder / "train.jsonl")))
    assert first.confidence == pytest.approx(0.4966, abs=1e-4)
    table = pq.read_table(folder / "logprobs.parquet").to_pylist()
    assert len(table) == 8
    assert table[0]["token"] == [5]
    assert table[0]["top_text"] == [["Blue", "Red"]]
    assert table[0]["top_logprob"][0] == pytest.approx([-0.7, -1.2])


def test_personal_data_does_not_leave_the_machine_when_it_is_to_be_redacted(
    workspace, server, config, make_dataset, make_rows
) -> None:
    rows = make_rows(8, system="Answer as jane.doe@example.com would.")
    rows[0] = rows[0].model_copy(update={"user": "Write to jane.doe@example.com, card 4111 1111 1111 1111."})
    tool = {"type": "function", "function": {"name": "mail", "description": "Writes to jane.doe@example.com."}}
    rows[1] = rows[1].model_copy(update={"tools": (tool,)})
    schema = {"type": "string", "description": "As jane.doe@example.com says it"}
    rows[2] = rows[2].model_copy(update={"requires_json": True, "tool_schema": schema})
    artifact = label(make_dataset(workspace, rows), config.model_copy(update={"redact": True}), workspace)

    assert not [sent for sent in server.sent if "jane" in json.dumps(sent.body) or "4111" in json.dumps(sent.body)]
    assert "<EMAIL_1>" in json.dumps(server.sent[0].body)
    trained = b"".join(_files(workspace, artifact).values())
    assert b"<CARD_1>" in trained
    assert b"jane" not in trained


def test_the_name_of_a_tool_is_redacted_with_all_else_that_is_sent(
    workspace, server, config, make_dataset, make_rows
) -> None:
    rows = make_rows(4, requires_json=True, tool_schema=SCHEMA, tool_name="mail jane.doe@example.com")
    lenient = config.model_copy(update={"redact": True, "max_failed_share": 1.0})
    with pytest.raises(NoRowsLeft):  # the server's answers are no JSON
        label(make_dataset(workspace, rows), lenient, workspace)
    assert server.sent
    assert not [sent for sent in server.sent if "jane" in json.dumps(sent.body)]


def test_a_schema_that_redaction_breaks_is_not_sent(workspace, server, config, make_dataset, make_rows) -> None:
    rows = make_rows(12)
    broken = {"type": "integer", "maximum": 4111111111111111}
    rows[0] = rows[0].model_copy(update={"requires_json": True, "tool_schema": broken})
    artifact = label(make_dataset(workspace, rows), config.model_copy(update={"redact": True}), workspace)
    assert [reject["code"] for reject in _unanswered(workspace, artifact.artifact_id)] == ["bad-schema"]
    assert len(server.sent) == 11


def test_a_row_in_which_names_cannot_be_looked_for_is_set_aside(
    workspace, server, config, make_dataset, make_rows, monkeypatch
) -> None:
    def unsure(text: str) -> list[tuple[int, int]]:
        if "000" in text:
            raise NamesUnknown("finder 1.0 failed with KeyError")
        return []

    names = {"kinds": ("name",)}
    monkeypatch.setattr(
        "core.label.questions.redact", lambda tree, limits, _: redact(tree, limits.model_copy(update=names), unsure)
    )
    artifact = label(make_dataset(workspace, make_rows(12)), config.model_copy(update={"redact": True}), workspace)
    (reject,) = _unanswered(workspace, artifact.artifact_id)
    assert (reject["where"], reject["code"]) == ("r000", "personal-data-unchecked")
    assert len(server.sent) == 11


def test_an_endpoint_s_own_fields_are_sent_and_shape_the_answer_s_key(
    workspace, server, config, make_dataset, make_rows
) -> None:
    dataset = make_dataset(workspace, make_rows(4))
    label(dataset, config, workspace)
    label(dataset, config.model_copy(update={"extra_body": {"top_k": 40}}), workspace)
    assert [request.body.get("top_k") for request in server.sent] == [None] * 4 + [40] * 4
    assert len({request.key for request in server.sent}) == 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_url": None}, "base_url is missing, backend is openai: give the address"),
        ({"base_url": "127.0.0.1:8080/v1"}, "base_url"),
        ({"quantisation": "nf4"}, "quantisation=nf4, backend is openai: only transformers loads in 4 bits"),
        ({"samples": {"count": 2}}, r"samples\.count=2 at temperature 0 are all the same: raise temperature"),
        ({"samples": {"choice": "judge"}}, r"samples\.choice judge and samples\.judge go together: give both, or neither"),
        ({"samples": {"judge": {"teacher": "qwen3-8b"}}}, r"samples\.choice judge and samples\.judge go together"),
        ({"budget": {"max_cost": 1.0}}, r"budget\.max_cost says nothing without prices: give prices\."),
        ({"budget": {"max_requests": 0}}, "greater than or equal to 1"),
        ({"budget": {"max_tokens": -1}}, "greater than or equal to 1"),
        ({"budget": {"max_s": 0.0}}, "greater than 0"),
        ({"prices": {"prompt_per_million": -1.0, "completion_per_million": 1.0}}, "greater than or equal to 0"),
        ({"backend": "llama-cpp", "extra_body": {"top_k": 40}}, "extra_body is for an endpoint, backend is llama-cpp"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(config, change, says) -> None:
    with pytest.raises(ValueError, match=says):
        LabelConfig.model_validate(config.model_dump() | change)


def test_a_judge_chooses_by_its_rubric_and_is_asked_once_for_each_row_whose_answers_differ(
    workspace, events, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {
        "Answer 1:": [step(text='{"best": 2}'), step(text="the second"), step(text="I said: the second")],
        "Question 000?": [step(text="Wrong."), step(text="Right.")],
        "Question 001?": [step(text="Same."), step(text="Same.")],
        "Question 002?": [step(text="One."), step(text="Two.")],
    }
    judge = {"teacher": "qwen3-8b", "base_url": server.base_url, "rubric": "Choose what is right."}
    settings = {"samples": {"count": 2, "choice": "judge", "judge": judge}, "temperature": 0.7, "concurrency": 1}
    judged = LabelConfig.model_validate(config.model_dump() | settings)
    artifact = label(make_dataset(workspace, make_rows(4)), judged, workspace, events.append)

    rows = {row.row_id: row.messages[-1].content for row in _kept(workspace, artifact)}
    assert (rows["r000"], rows["r001"], rows["r002"]) == ("Right.", "Same.", "One.")
    asked = [request.body for request in server.sent if "Answer 1:" in json.dumps(request.body)]
    assert len(asked) == 3
    assert asked[0]["messages"][0]["content"].startswith("Choose what is right.")
    assert asked[0]["response_format"]["json_schema"]["schema"]["properties"]["best"]["maximum"] == 2
    (finding,) = (finding for finding in artifact.findings if finding.code == "label-judge-silent")
    assert finding.evidence.startswith("1 rows")
    assert artifact.asked == len(server.sent) == 8 + 3
    assert "judge" in artifact.tools


def test_what_a_judge_takes_counts_for_the_budget_where_all_answers_were_there_before(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {"Question 000?": [step(text="Wrong."), step(text="Right.")]}
    settings = {"samples": {"count": 2, "choice": "agreement"}, "temperature": 0.7, "concurrency": 1}
    dataset = make_dataset(workspace, make_rows(4))
    label(dataset, LabelConfig.model_validate(config.model_dump() | settings), workspace)
    server.script = {"Answer 1:": [step(text='{"best": 2}')]}
    before = len(server.sent)
    judge = {"teacher": "qwen3-8b", "base_url": server.base_url}
    settings |= {"samples": {"count": 2, "choice": "judge", "judge": judge}}
    judged = label(dataset, LabelConfig.model_validate(config.model_dump() | settings), workspace)
    assert len(server.sent) - before == judged.asked == 1
    with open_ledger(workspace.ledger("label")) as ledger:
        assert ledger.spent(judged.artifact_id).requests == 1


def test_what_a_judge_costs_is_counted_by_its_own_prices_and_stops_at_the_budget(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {
        "Answer 1:": [step(text='{"best": 2}')] * 4,
        **{f"Question 00{n}?": [step(text="One."), step(text="Two.")] for n in range(4)},
    }
    prices = {"prompt_per_million": 1.0, "completion_per_million": 1.0}
    dear = {"prompt_per_million": 1000.0, "completion_per_million": 1000.0}
    judge = {"teacher": "qwen3-8b", "base_url": server.base_url, "prices": dear}
    settings = {"samples": {"count": 2, "choice": "judge", "judge": judge}, "temperature": 0.7, "concurrency": 1}
    priced = config.model_dump() | settings | {"prices": prices}
    dataset = make_dataset(workspace, make_rows(4))
    with pytest.raises(BudgetReached, match=r"label\.budget\.max_cost"):
        label(dataset, LabelConfig.model_validate(priced | {"budget": {"max_cost": 0.015}}), workspace)
    assert len(server.sent) == 8 + 2
    artifact = label(dataset, LabelConfig.model_validate(priced), workspace)
    assert len(server.sent) == 8 + 4
    assert artifact.cost == pytest.approx((8 * 10 * 1.0 + 4 * 10 * 1000.0) / 1e6)

    foreign = priced | {"samples": settings["samples"] | {"judge": judge | {"prices": dear | {"currency": "EUR"}}}}
    with pytest.raises(ValueError, match="two currencies"):
        LabelConfig.model_validate(foreign)


def _called(name: str = "choose", said: str | None = None) -> bytes:
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    message = {"role": "assistant", "content": said, "tool_calls": [call]}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}).encode()


def test_a_call_of_a_tool_that_was_not_offered_is_no_answer(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    rows = make_rows(8)
    rows[0] = rows[0].model_copy(update={"requires_json": True, "tool_schema": SCHEMA})
    server.script = {
        "That does not fit": [step(text='{"n": 5}')],
        "Question 000?": [step(body=_called(said="I look it up."))],
        "Question 001?": [step(body=_called())],
    }
    artifact = label(make_dataset(workspace, rows), config, workspace)
    first, *_ = _kept(workspace, artifact)
    assert (first.messages[-1].content, first.messages[-1].tool_calls) == ('{"n": 5}', ())
    assert [(one["where"], one["code"]) for one in _unanswered(workspace, artifact.artifact_id)] == [
        ("r001", "teacher-empty")
    ]


def test_a_judge_that_calls_a_tool_gave_no_verdict(workspace, server, step, config, make_dataset, make_rows) -> None:
    server.script = {
        "Answer 1:": [step(body=_called())],
        "That does not fit": [step(body=_called())],
        "Question 000?": [step(text="Wrong."), step(text="Right.")],
    }
    judge = {"teacher": "qwen3-8b", "base_url": server.base_url}
    settings = {"samples": {"count": 2, "choice": "judge", "judge": judge}, "temperature": 0.7, "concurrency": 1}
    judged = LabelConfig.model_validate(config.model_dump() | settings)
    artifact = label(make_dataset(workspace, make_rows(4)), judged, workspace)
    assert [finding.code for finding in artifact.findings] == ["label-judge-silent"]


def test_samples_that_call_tools_are_compared_by_what_they_call(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    tools = tuple(
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "bcdef")
    )
    rows = make_rows(4, tools=tools)
    server.script = {"Question 000?": [step(body=_called(name)) for name in ("a", "bcdef", "bcdef")]}
    settings = {"samples": {"count": 3, "choice": "agreement"}, "temperature": 0.7, "concurrency": 1}
    artifact = label(make_dataset(workspace, rows), LabelConfig.model_validate(config.model_dump() | settings), workspace)
    first, *_ = _kept(workspace, artifact)
    assert first.messages[-1].tool_calls[0]["function"]["name"] == "bcdef"
    assert 0 < first.consistency < 1


def test_a_judge_is_shown_what_samples_call(workspace, server, step, config, make_dataset, make_rows) -> None:
    tools = tuple({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("a", "b"))
    server.script = {
        "Answer 1:": [step(text='{"best": 2}')],
        "Question 000?": [step(body=_called("a")), step(body=_called("b"))],
    }
    judge = {"teacher": "qwen3-8b", "base_url": server.base_url}
    settings = {"samples": {"count": 2, "choice": "judge", "judge": judge}, "temperature": 0.7, "concurrency": 1}
    judged = LabelConfig.model_validate(config.model_dump() | settings)
    artifact = label(make_dataset(workspace, make_rows(4, tools=tools)), judged, workspace)
    first, *_ = _kept(workspace, artifact)
    assert first.messages[-1].tool_calls[0]["function"]["name"] == "b"
    (asked,) = [sent.last for sent in server.sent if "Answer 1:" in sent.last]
    assert "a({})" in asked


def _kept(workspace, artifact):
    folder = workspace.folder(Stage.LABEL, artifact.artifact_id)
    return [row for name in ("train", "held_out") for row in read_labeled(folder / f"{name}.jsonl")]
