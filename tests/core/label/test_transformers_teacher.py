"""The teacher in a worker process: a tiny real Llama where speed counts."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from core import catalogue
from core.config import LabelConfig
from core.data.record import Message
from core.errors import BadConfig, TeacherFailed
from core.events import Event, Note, ignore
from core.label import transformers_teacher
from core.label.label import label
from core.label.ledger import open_ledger
from core.label.request import Reply, Request
from core.label.teachers import Trouble, choose
from core.label.tool_calls import unseen_tools
from core.label.transformers_teacher import TransformersTeacher

SENTENCE = "What does the function return when its list is empty and no name is given to the open file"
WORDS = SENTENCE.split()
DEAF = "deaf"  # begins a prompt for which the template leaves its tools out
TEMPLATE = (
    f"{{% if tools and messages[0]['content'][:4] != '{DEAF}' %}}"
    "{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools spoken here') }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SCHEMA = {
    "type": "object",
    "properties": {"guests": {"type": "integer", "minimum": 1, "maximum": 20}, "vegan": {"type": "boolean"}},
    "required": ["guests", "vegan"],
    "additionalProperties": False,
}
CONFIG = LabelConfig(teacher="tiny", backend="transformers", batch_size=4, max_tokens=8)


@pytest.fixture(scope="module")
def folder(tiny_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student with a template that knows tools."""
    copy = tmp_path_factory.mktemp("teacher") / "tiny"
    shutil.copytree(tiny_student, copy)
    (copy / "chat_template.jinja").write_text(TEMPLATE)
    return copy


@pytest.fixture(scope="module")
def teacher(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersTeacher]:
    loaded = transformers_teacher.load(folder, CONFIG, tmp_path_factory.mktemp("log") / "log", ignore)
    yield loaded
    loaded.close()


def _ask(number: int, **more: Any) -> Request:
    """Return a request; its number decides its text, and so the length of its prompt."""
    text = " ".join(WORDS[(number + i) % len(WORDS)] for i in range(3 + number * 7 % 40))
    told = {"temperature": 0.0, "max_tokens": 8, "seed": 1, "top_logprobs": 2, **more}
    return Request(teacher="t", messages=(Message(role="user", content=text),), **told)


def _answers(teacher: TransformersTeacher, requests: list[Request]) -> dict[str, Reply | Trouble]:
    return {request.key: outcome for request, outcome in teacher.answer(requests)}


def _said(outcome: Reply | Trouble) -> tuple[object, ...]:
    """Return everything but the time it took."""
    assert isinstance(outcome, Reply)
    return outcome.text, outcome.finish_reason, outcome.prompt_tokens, outcome.completion_tokens, outcome.logprobs


def test_padding_and_neighbours_leave_the_answer_of_the_model_alone(teacher, folder: Path) -> None:
    requests = [_ask(number) for number in range(12)]
    chats = json.dumps([[message.model_dump() for message in request.messages] for request in requests])
    script = str(Path(__file__).with_name("greedy_alone.py"))
    done = subprocess.run(
        [sys.executable, script, str(folder), "8"], input=chats, capture_output=True, text=True, check=True
    )
    answers = _answers(teacher, requests)
    for request, alone in zip(requests, json.loads(done.stdout), strict=True):
        reply = answers[request.key]
        assert reply.prompt_tokens == alone["prompt"]
        sure = next((at for at, apart in enumerate(alone["apart"]) if apart < 1e-3), len(alone["tokens"]))
        assert sure > 0
        assert [token.token for token in reply.logprobs][:sure] == alone["tokens"][:sure]
        assert [token.logprob for token in reply.logprobs][:sure] == pytest.approx(alone["chances"][:sure], abs=1e-4)


def test_an_answer_is_the_same_to_the_last_bit_beside_any_neighbours(teacher) -> None:
    requests = [_ask(number, temperature=number % 2 * 0.9) for number in range(14)]
    together = _answers(teacher, requests)
    assert len({outcome.prompt_tokens for outcome in together.values()}) > 5
    mixed = _answers(teacher, requests[::-1] + [_ask(number, max_tokens=3) for number in range(14, 30)])
    alone = {key: outcome for request in requests for key, outcome in _answers(teacher, [request]).items()}
    for key, outcome in together.items():
        assert _said(outcome) == _said(mixed[key]) == _said(alone[key])


def test_samples_differ_by_seed_and_number_and_repeat_by_both(teacher) -> None:
    requests = [_ask(1, temperature=1.0, seed=seed, sample=sample) for seed in (1, 50) for sample in range(3)]
    texts = {key: outcome.text for key, outcome in _answers(teacher, requests).items()}
    assert len(set(texts.values())) == 6
    assert texts == {key: outcome.text for key, outcome in _answers(teacher, requests[::-1]).items()}


def test_the_chances_of_a_token_are_natural_logs_with_ids_and_texts(teacher) -> None:
    (reply,) = _answers(teacher, [_ask(2)]).values()
    assert len(reply.logprobs) == reply.completion_tokens == 8
    assert "".join(token.text for token in reply.logprobs) == reply.text
    for token in reply.logprobs:
        assert (token.token, token.text, token.logprob) == token.top[0]
        assert 0 > token.top[0][2] >= token.top[1][2]
        assert sum(2.718281828**chance for _, _, chance in token.top) < 1


def test_each_request_has_its_own_length_and_is_told_apart_when_cut(teacher) -> None:
    requests = [_ask(3, max_tokens=tokens) for tokens in (1, 5, 7)]
    replies = _answers(teacher, requests)
    assert [replies[request.key].completion_tokens for request in requests] == [1, 5, 7]
    assert {reply.finish_reason for reply in replies.values()} == {"length"}
    long = replies[requests[2].key]
    assert all(long.logprobs[: reply.completion_tokens] == reply.logprobs for reply in replies.values())


def test_a_model_that_knows_nothing_still_keeps_to_a_schema(teacher) -> None:
    requests = [_ask(number, answer_schema=SCHEMA, max_tokens=100, temperature=number % 2 * 1.0) for number in range(6)]
    for reply in _answers(teacher, [*requests, _ask(6)]).values():
        if reply.completion_tokens == 8 and reply.finish_reason == "length":
            continue  # the one without a schema
        value = json.loads(reply.text)
        assert set(value) == {"guests", "vegan"}
        assert 1 <= value["guests"] <= 20
        assert reply.finish_reason == "stop"


def test_a_schema_the_grammar_cannot_hold_is_a_trouble_of_its_row_alone(teacher) -> None:
    ahead = {"type": "string", "pattern": "(?=x)y"}
    requests = [_ask(0, answer_schema=ahead), _ask(0)]
    outcomes = _answers(teacher, requests)
    trouble = outcomes[requests[0].key]
    assert isinstance(trouble, Trouble)
    assert not trouble.retryable
    assert "tool_schema cannot be kept to" in trouble.reason
    assert _said(outcomes[requests[1].key])


def test_prompts_that_cannot_be_asked_are_troubles_of_their_rows_alone(teacher) -> None:
    tool, words = Message(role="tool", content="7"), Message(role="user", content="list " * 900)
    requests = [_ask(4), *(_ask(5).model_copy(update={"messages": (message,)}) for message in (tool, words))]
    outcomes = _answers(teacher, requests)
    refused, long = outcomes[requests[1].key], outcomes[requests[2].key]
    assert _said(outcomes[requests[0].key])
    reason = "the chat template refuses the prompt: no tools spoken here"
    assert refused == Trouble(reason=reason, retryable=False, code="teacher-refused")
    assert "too long" in long.reason
    assert "512" in long.reason
    assert not long.retryable


def test_a_prompt_that_nearly_fills_the_context_is_answered_to_its_end(teacher) -> None:
    full = _ask(4).model_copy(update={"messages": (Message(role="user", content="ß" * 249),), "max_tokens": 100})
    (reply,) = _answers(teacher, [full]).values()
    assert isinstance(reply, Reply)
    assert reply.prompt_tokens + reply.completion_tokens == 512
    assert reply.finish_reason == "length"


def test_tools_reach_the_chat_template(teacher) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    plain, offered = _answers(teacher, [_ask(7), _ask(7, tools=(tool,))]).values()
    assert offered.prompt_tokens > plain.prompt_tokens + 10


def test_a_row_whose_tools_the_chat_template_leaves_out_is_not_asked(teacher) -> None:
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    words = Message(role="user", content=f"{DEAF} list")
    deaf = [_ask(7, **more).model_copy(update={"messages": (words,)}) for more in ({}, {"tools": (tool,)})]
    outcomes = _answers(teacher, deaf)
    assert _said(outcomes[deaf[0].key])
    assert outcomes[deaf[1].key] == unseen_tools()


def test_a_killed_process_is_told_with_its_signal(folder: Path, tmp_path: Path) -> None:
    teacher = transformers_teacher.load(folder, CONFIG, tmp_path / "log", ignore)
    try:
        answered = teacher.answer([_ask(0, max_tokens=400) for _ in range(40)])
        next(answered)
        child = teacher._process._child
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(TeacherFailed, match="ended by signal SIGKILL"):
            list(answered)
        with pytest.raises(TeacherFailed, match="ended by signal SIGKILL"):
            list(teacher.answer([_ask(0)]))
    finally:
        teacher.close()
    assert child.returncode == -signal.SIGKILL


PARENT = """
import sys
from pathlib import Path
from core.config import LabelConfig
from core.events import ignore
from core.label import transformers_teacher
config = LabelConfig(teacher="tiny", backend="transformers")
teacher = transformers_teacher.load(Path(sys.argv[1]), config, Path(sys.argv[2]), ignore)
print(teacher._process._child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.full
def test_the_process_dies_with_its_parent(folder: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(folder), str(tmp_path / "log")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
        parent.wait()
    gone, left = psutil.wait_procs([child], timeout=5)
    assert (len(gone), left) == (1, [])


def _weights(folder: Path, change: Callable[[dict[str, Any], bytearray], None]) -> None:
    """Change a safetensors file: its header, and the bytes behind it."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8:end]), bytearray(data[end:])
    change(header, rest)
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + rest)


def _without_a_weight(header: dict[str, Any], _rest: bytearray) -> None:
    header["model.layers.1.mlp.lost.weight"] = header.pop("model.layers.1.mlp.down_proj.weight")


def _not_a_number(_header: dict[str, Any], rest: bytearray) -> None:
    rest[:] = b"\xc0\x7f" * (len(rest) // 2)


@pytest.mark.full
def test_a_folder_that_is_no_whole_chat_model_is_refused(tiny_student: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_student, tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    with pytest.raises(TeacherFailed, match="mute cannot be used: it holds no chat template"):
        transformers_teacher.load(tmp_path / "mute", CONFIG, tmp_path / "log", ignore)
    shutil.copytree(tiny_student, tmp_path / "holed")
    _weights(tmp_path / "holed", _without_a_weight)
    with pytest.raises(TeacherFailed, match=r"weight model.layers.1.mlp.down_proj.weight is missing .*1 such"):
        transformers_teacher.load(tmp_path / "holed", CONFIG, tmp_path / "log", ignore)
    (tmp_path / "holed" / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(TeacherFailed, match=r"ended with status 1: .*[Ss]afetensor"):
        transformers_teacher.load(tmp_path / "holed", CONFIG, tmp_path / "log", ignore)


@pytest.mark.full
def test_logits_that_are_no_numbers_end_the_labelling_instead_of_making_text(tiny_student: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_student, tmp_path / "broken")
    _weights(tmp_path / "broken", _not_a_number)
    teacher = transformers_teacher.load(tmp_path / "broken", CONFIG, tmp_path / "log", ignore)
    try:
        with pytest.raises(TeacherFailed, match="logits are no numbers"):
            list(teacher.answer([_ask(0)]))
    finally:
        teacher.close()


@pytest.mark.full
def test_an_answer_ends_at_every_end_the_generation_config_names(teacher, tiny_student: Path, tmp_path: Path) -> None:
    said = [token.token for token in next(iter(_answers(teacher, [_ask(9)]).values())).logprobs]
    end = said[4]
    shutil.copytree(tiny_student, tmp_path / "ends")
    path = tmp_path / "ends" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [0, end], "repetition_penalty": 9.0}))
    other = transformers_teacher.load(tmp_path / "ends", CONFIG, tmp_path / "log", ignore)
    try:
        (reply,) = _answers(other, [_ask(9)]).values()
    finally:
        other.close()
    assert reply.finish_reason == "stop"
    assert [token.token for token in reply.logprobs] == said[: said.index(end)]


@pytest.mark.full
def test_weights_in_4_bits_answer_a_little_otherwise(folder: Path, teacher, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"quantisation": "nf4"})
    small = transformers_teacher.load(folder, config, tmp_path / "log", ignore)
    try:
        (coarse,) = _answers(small, [_ask(2)]).values()
    finally:
        small.close()
    (exact,) = _answers(teacher, [_ask(2)]).values()
    assert coarse.logprobs[0].logprob != exact.logprobs[0].logprob
    assert coarse.logprobs[0].logprob == pytest.approx(exact.logprobs[0].logprob, abs=0.5)


@pytest.mark.full
def test_a_batch_that_memory_cannot_hold_is_halved_until_it_can(folder: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    config = CONFIG.model_copy(update={"batch_size": 128})
    long = Message(role="user", content="list " * 90)
    requests = [_ask(0, max_tokens=2, seed=n).model_copy(update={"messages": (long,)}) for n in range(128)]
    teacher = transformers_teacher.load(folder, config, tmp_path / "log", events.append)
    try:
        _answers(teacher, [_ask(0)])  # its threads and what it loads late are there now
        child = psutil.Process(teacher._process._child.pid)
        held = child.memory_info().data
        resource.prlimit(child.pid, resource.RLIMIT_DATA, (held + (60 << 20), held + (60 << 20)))
        answers = _answers(teacher, requests)
    finally:
        teacher.close()
    notes = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert notes
    assert notes[0].startswith("out of memory with 128 prompts of")
    assert all(isinstance(outcome, Reply) for outcome in answers.values())
    assert len(answers) == 128


@pytest.fixture
def beside(folder: Path, tmp_path: Path) -> Path:
    """A folder with a card of the tiny teacher."""
    card = {
        "roles": ["teacher"],
        "source": {"kind": "local", "path": str(folder)},
        "parameters": None,
        "hidden_size": 64,
        "licence": "MIT",
        "chat_template": "its own",
        "memory_mib": None,
    }
    (tmp_path / "cards" / "models").mkdir(parents=True)
    (tmp_path / "cards" / "models" / "tiny.yaml").write_text(yaml.safe_dump(card))
    return tmp_path / "cards"


def test_the_identity_names_the_weights_their_bits_and_the_libraries(beside: Path) -> None:
    plain = choose(CONFIG, ignore, beside)
    coarse = choose(CONFIG.model_copy(update={"quantisation": "nf4"}), ignore, beside)
    wide = choose(CONFIG.model_copy(update={"batch_size": 32}), ignore, beside)
    assert plain.identity.startswith("sha256:")
    assert set(plain.tools) == {"transformers", "torch", "llguidance"}
    assert all(f"{name} {version}" in plain.identity for name, version in plain.tools.items())
    assert "in nf4" in coarse.identity
    assert "bitsandbytes" in coarse.tools
    assert wide == plain


def test_a_gguf_is_no_teacher_for_transformers(beside: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"teacher": "smollm2-135m-instruct"})
    with pytest.raises(BadConfig, match=r"smollm2-135m-instruct is a GGUF file, label\.backend is transformers"):
        choose(config, ignore, beside)
    (tmp_path / "own.gguf").write_bytes(b"GGUF")
    path = beside / "models" / "tiny.yaml"
    path.write_text(path.read_text().replace(str(catalogue.model("tiny", beside).source.path), str(tmp_path / "own.gguf")))
    with pytest.raises(BadConfig, match="tiny is a GGUF file"):
        choose(CONFIG, ignore, beside)


CHILD = """
import sys
from pathlib import Path
from core.config import LabelConfig
from core.contract import Stage
from core.events import ignore
from core.label.label import label
from core.nouns import Dataset
from core.workspace import open_workspace, read_manifest
root, artifact_id, beside = sys.argv[1:]
workspace = open_workspace(Path(root))
dataset = read_manifest(workspace, Stage.DATA, artifact_id, Dataset)
config = LabelConfig(teacher="tiny", backend="transformers", batch_size=4, max_tokens=80, max_failed_share=1.0)
label(dataset, config, workspace, ignore, Path(beside))
"""


@pytest.mark.full
def test_a_killed_labelling_ends_in_the_same_files_as_an_undisturbed_one(
    workspace, beside: Path, make_dataset, make_rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.workspace import open_workspace

    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    rows = [
        row.model_copy(update={"user": _ask(number).messages[0].content + str(number)})
        for number, row in enumerate(make_rows(90, requires_json=True, tool_schema=SCHEMA))
    ]
    dataset = make_dataset(workspace, rows)
    argv = [sys.executable, "-c", CHILD, str(workspace.root), dataset.artifact_id, str(beside)]
    with subprocess.Popen(argv) as child:
        _wait_for_answers(workspace.ledger("label"), 20, child)
        child.kill()
    with open_ledger(workspace.ledger("label")) as ledger:
        waiting = ledger.counts()["waiting"]
    assert 0 < waiting <= 32 + 4
    config = CONFIG.model_copy(update={"max_tokens": 80, "max_failed_share": 1.0})
    resumed = label(dataset, config, workspace, ignore, beside)
    assert resumed.reused >= 20
    calm = open_workspace(tmp_path / "calm")
    undisturbed = label(make_dataset(calm, rows), config, calm, ignore, beside)
    assert resumed.artifact_id == undisturbed.artifact_id
    assert resumed.content_digest == undisturbed.content_digest
    assert undisturbed.train_rows + undisturbed.held_out_rows > 0


def _wait_for_answers(path: Path, count: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + 120
    while time.perf_counter() < deadline:
        assert child.poll() is None
        if path.exists():
            with open_ledger(path) as ledger:
                if ledger.counts()["answered"] >= count:
                    return
        time.sleep(0.01)
    pytest.fail(f"no {count} answers within 120 s")
