"""The real SmolLM2 as teacher in this process: several prompts at once, each answered as if it were alone."""

from __future__ import annotations

import itertools
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from core.config import LabelConfig
from core.contract import Stage
from core.data.record import Message, read_labeled
from core.errors import TeacherFailed
from core.events import ignore
from core.label import in_process
from core.label.ask import first_request
from core.label.label import label
from core.label.request import Reply, Request
from core.label.teachers import Trouble
from core.label.tool_calls import unseen_tools

pytestmark = pytest.mark.model

SYSTEM = "Answer the question from the documentation in one sentence."
DOCS = {
    "os.path.basename": "Returns the final component of a pathname.",
    "bisect.bisect_left": "Return the index where to insert item x in list a, assuming a is sorted.",
}


@pytest.fixture(scope="module")
def teacher(toolchain, default_gguf) -> Iterator[in_process.LlamaTeacher]:
    loaded = in_process.load(default_gguf, ignore)
    yield loaded
    loaded.close()


@pytest.fixture
def asked(make_rows) -> list[Request]:
    rows = make_rows(2, system=SYSTEM)
    changes = [
        {"context": text, "user": f"What does `{name}` do in Python? Answer in one sentence."}
        for name, text in DOCS.items()
    ]
    config = LabelConfig(teacher="smollm2-135m-instruct", max_tokens=16)
    return [first_request(row.model_copy(update=change), "t", config) for row, change in zip(rows, changes, strict=True)]


def _answer(teacher, request: Request) -> Reply | Trouble:
    ((_, outcome),) = teacher.answer([request])
    return outcome


def _texts(teacher, requests) -> dict[str, str]:
    return {request.key: reply.text for request, reply in teacher.answer(requests)}


def _various() -> list[Request]:
    """Requests of many lengths, with and without a system prompt, greedy and drawn, one of them with a schema."""
    topics = ("lists", "a file", "sorting", "the sea", "tuples " * 40, "time", "zip", "a pair of numbers", "rain", "json")
    requests = []
    for number, topic in enumerate(topics):
        system = (Message(role="system", content=SYSTEM * (1 + number % 2)),) if number % 5 else ()
        requests.append(
            Request(
                teacher="t",
                messages=(*system, Message(role="user", content=f"Say something about {topic}.")),
                temperature=0.8 if number % 4 == 3 else 0.0,
                max_tokens=4 + number,
                seed=number,
                answer_schema={"type": "array", "items": {"type": "integer"}} if "pair" in topic else None,
                top_logprobs=3 if number % 2 else 0,
            )
        )
    return requests


def _same_beside_any_others(teacher, rounds: int) -> None:
    requests = _various()
    alone = {request.key: _answer(teacher, request) for request in requests}
    assert len({reply.text for reply in alone.values()}) == len(requests)
    random = Random(5)
    for count in itertools.islice(itertools.cycle((len(requests), 5, 2, 9)), rounds):
        for request, reply in teacher.answer(random.sample(requests, count)):
            assert reply.model_copy(update={"latency_ms": 0}) == alone[request.key].model_copy(update={"latency_ms": 0})


def test_an_answer_is_the_same_to_the_last_bit_whatever_is_asked_beside_it_and_in_which_order(teacher) -> None:
    _same_beside_any_others(teacher, 2)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q5_0", "Q4_0", "Q4_K_M", "IQ4_NL"])
def test_so_it_is_with_the_kernels_of_other_quantisations(kind: str, toolchain, default_gguf, tmp_path: Path) -> None:
    other = tmp_path / f"{kind}.gguf"
    argv = [str(toolchain.program("llama-quantize")), "--allow-requantize", str(default_gguf), str(other), kind]
    subprocess.run(argv, check=True, capture_output=True)
    loaded = in_process.load(other, ignore)
    try:
        _same_beside_any_others(loaded, 8)
    finally:
        loaded.close()


def test_a_request_is_drawn_only_when_there_is_room_for_it(teacher) -> None:
    drawn = []
    requests = (drawn.append(request) or request for request in _various() * 2)
    for answered, _ in enumerate(teacher.answer(requests), 1):
        assert len(drawn) <= answered + in_process.SEQUENCES
    assert len(drawn) == answered == 2 * len(_various())


def test_answers_that_nobody_waits_for_leave_nothing_behind(teacher, asked) -> None:
    before = _texts(teacher, asked)
    started = teacher.answer(iter(_various()))
    next(started)
    started.close()
    assert _texts(teacher, asked) == before


def test_an_answer_that_may_outgrow_its_place_gets_more_room(teacher, asked) -> None:
    roomy = asked[0].model_copy(update={"max_tokens": 4000, "answer_schema": {"enum": ["yes"]}})
    answers = _texts(teacher, [roomy, *asked])
    assert answers.pop(roomy.key).strip() == '"yes"'
    assert answers == _texts(teacher, asked)


@pytest.mark.full
def test_so_does_a_prompt_that_is_longer_than_a_place(teacher, asked) -> None:
    long = Message(role="user", content="The sea is wide. " * 410 + "What is wide?")
    reply = _answer(teacher, asked[0].model_copy(update={"messages": (long,), "max_tokens": 4}))
    assert reply.prompt_tokens > 2048
    assert reply.completion_tokens == 4


def test_a_sample_is_drawn_by_its_seed_and_number(teacher, asked) -> None:
    first = asked[0].model_copy(update={"temperature": 1.5})
    samples = [first, first.model_copy(update={"sample": 1}), first.model_copy(update={"seed": 7})]
    texts = _texts(teacher, samples)
    assert len(set(texts.values())) == 3
    assert _texts(teacher, samples[1:]) == {key: text for key, text in texts.items() if key != first.key}


def test_log_probabilities_are_those_of_the_whole_vocabulary(teacher, asked) -> None:
    request = asked[0].model_copy(update={"max_tokens": 3, "top_logprobs": 1_000_000})
    reply = _answer(teacher, request)
    assert "".join(token.text for token in reply.logprobs) == reply.text
    assert len(reply.logprobs) == reply.completion_tokens == 3
    for token in reply.logprobs:
        assert math.fsum(math.exp(logprob) for _, _, logprob in token.top) == pytest.approx(1)
        assert (token.token, token.text, token.logprob) == token.top[0]  # greedy
        assert [each[2] for each in token.top] == sorted((each[2] for each in token.top), reverse=True)


def test_a_schema_with_a_count_beyond_all_measure_costs_no_memory(teacher, asked) -> None:
    schema = {"type": "string", "minLength": 3, "maxLength": 1_000_000_000}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = _answer(teacher, asked[0].model_copy(update={"answer_schema": schema, "max_tokens": 64}))
    assert reply.text.startswith('"')
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_schema_that_allows_no_answer_is_a_trouble_of_that_row_alone(teacher, asked) -> None:
    nothing = asked[0].model_copy(update={"answer_schema": {"type": "string", "pattern": "^[^\\x00-\\U0010FFFF]$"}})
    outcomes = {request.key: outcome for request, outcome in teacher.answer([nothing, *asked])}
    told = "no token goes on in the grammar of answer_schema"
    assert outcomes.pop(nothing.key) == Trouble(reason=told, retryable=False, code="bad-schema")
    assert all(isinstance(outcome, Reply) for outcome in outcomes.values())


def test_a_schema_is_kept_by_the_grammar(teacher) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "guests": {"type": "integer"}},
        "required": ["city", "guests"],
        "additionalProperties": False,
    }
    text = "A table for four in Lyon, please. Answer in JSON."
    reply = _answer(
        teacher,
        Request(
            teacher="t",
            messages=(Message(role="user", content=text),),
            temperature=0.0,
            max_tokens=64,
            seed=1,
            answer_schema=schema,
        ),
    )
    assert isinstance(reply, Reply)
    assert reply.finish_reason == "stop"
    assert set(json.loads(reply.text)) == {"city", "guests"}


def test_a_prompt_beyond_the_context_is_a_trouble_of_that_row_alone(teacher, asked) -> None:
    long = asked[0].model_copy(update={"messages": (Message(role="user", content="word " * 9000),)})
    trouble = _answer(teacher, long)
    assert isinstance(trouble, Trouble)
    assert not trouble.retryable
    assert isinstance(_answer(teacher, asked[0]), Reply)


def test_a_file_that_is_no_model_is_refused(toolchain, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF but not really" * 100)
    with pytest.raises(TeacherFailed, match=r"x.gguf cannot be used"):
        in_process.load(tmp_path / "x.gguf", ignore)


def test_a_model_without_a_chat_template_is_refused(toolchain, default_gguf, tmp_path: Path) -> None:
    bare = tmp_path / "bare.gguf"
    shutil.copyfile(default_gguf, bare)
    data = bare.read_bytes()
    at = data.index(b"tokenizer.chat_template")
    with bare.open("r+b") as stream:
        stream.seek(at)
        stream.write(b"tokenizer.chat_templatX")
    with pytest.raises(TeacherFailed, match="no chat template"):
        in_process.load(bare, ignore)


def test_a_template_that_refuses_the_messages_is_a_trouble_of_that_row_alone(
    toolchain, default_gguf, asked, tmp_path: Path
) -> None:
    strict = tmp_path / "strict.gguf"
    data = default_gguf.read_bytes()
    at = data.index(b"{% for message in messages %}")
    size = int.from_bytes(data[at - 8 : at], "little")
    refusing = b"{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}{{ messages[0].content }}"
    strict.write_bytes(data[:at] + refusing.ljust(size) + data[at + size :])
    loaded = in_process.load(strict, ignore)
    try:
        bare = asked[0].model_copy(update={"messages": asked[0].messages[1:]})
        outcomes = {request.key: outcome for request, outcome in loaded.answer([asked[0], bare])}
    finally:
        loaded.close()
    assert outcomes[asked[0].key] == Trouble(
        reason="the teacher's chat template refuses the messages: no system prompts",
        retryable=False,
        code="teacher-refused",
    )
    assert isinstance(outcomes[bare.key], Reply)


def test_a_row_whose_tools_the_chat_template_leaves_out_is_not_asked(teacher, asked) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    assert _answer(teacher, asked[0].model_copy(update={"tools": (tool,)})) == unseen_tools()


def test_ctrl_c_ends_it_between_two_tokens(toolchain, default_gguf, asked) -> None:
    program = (
        "import sys; from pathlib import Path; from core.events import ignore; from core.label import in_process\n"
        "from core.label.request import Request\n"
        "request = Request.model_validate_json(sys.argv[2]); teacher = in_process.load(Path(sys.argv[1]), ignore)\n"
        "def endless():\n"
        "    while True:\n"
        "        print('drawn', flush=True); yield request\n"
        "for _ in teacher.answer(endless()): pass"
    )
    argv = [sys.executable, "-c", program, str(default_gguf), asked[0].model_dump_json()]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        for _ in range(in_process.SEQUENCES + 2):
            child.stdout.readline()
        child.send_signal(signal.SIGINT)
        sent = time.perf_counter()
        _, errors = child.communicate(timeout=30)
    assert errors.strip().endswith(b"KeyboardInterrupt")
    assert time.perf_counter() - sent < 5


def test_no_python_runs_inside_llama_cpp_where_a_ctrl_c_would_be_lost(teacher, asked) -> None:
    ran: set[str] = set()
    before = sys.getprofile()
    sys.setprofile(lambda frame, _event, _arg: ran.add(frame.f_code.co_name))
    try:
        _answer(teacher, asked[0])
    finally:
        sys.setprofile(before)
    assert "_decode" in ran
    assert "llama_log_callback" not in ran


def test_the_stage_labels_with_the_packaged_model(workspace, events, toolchain, make_dataset, make_rows) -> None:
    rows = make_rows(4, system=SYSTEM, context=DOCS["os.path.basename"])
    config = LabelConfig(teacher="smollm2-135m-instruct", max_tokens=24, context_distillation=True, max_failed_share=1)
    artifact = label(make_dataset(workspace, rows), config, workspace, events.append)
    assert artifact.tools["llama.cpp"] == toolchain.identity()
    assert artifact.asked >= 4
    labeled = read_labeled(workspace.folder(Stage.LABEL, artifact.artifact_id) / "train.jsonl")
    assert all([message.role for message in row.messages] == ["user", "assistant"] for row in labeled)
