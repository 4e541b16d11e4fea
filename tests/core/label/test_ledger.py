"""The request ledger: nothing that was answered is lost or asked again, whatever happens in between."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.record import Message
from core.errors import ArtifactError, DiskFull
from core.label.ledger import Ledger, Reply, Request, open_ledger

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
MESSAGES = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=TEXT), min_size=1, max_size=3
)
REQUESTS = st.builds(
    Request,
    teacher=TEXT,
    messages=MESSAGES.map(tuple),
    temperature=st.floats(0, 2),
    max_tokens=st.integers(1, 8192),
    seed=st.integers(0, 2**31),
    answer_schema=st.none() | st.just({"type": "object"}),
)
REPLIES = st.builds(
    Reply,
    text=TEXT,
    finish_reason=st.sampled_from(["stop", "length"]),
    prompt_tokens=st.integers(0, 9999),
    completion_tokens=st.integers(0, 9999),
    latency_ms=st.floats(0, 1e6),
    tool_calls=st.just(()) | st.just(({"type": "function", "function": {"name": "weather", "arguments": "{}"}},)),
)


def _request(text: str = "Why?") -> Request:
    return Request(teacher="t", messages=(Message(role="user", content=text),), temperature=0.0, max_tokens=9, seed=1)


def _reply(text: str = "Because.") -> Reply:
    return Reply(text=text, finish_reason="stop", prompt_tokens=5, completion_tokens=2, latency_ms=1.5)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(REQUESTS, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.one_of(st.just("begin"), st.just("reopen"), TEXT, REPLIES)), max_size=12),
)
def test_any_history_leaves_what_a_plain_dictionary_would_hold(requests, history) -> None:
    model: dict[str, tuple[str, Reply | None, int, int]] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "l.sqlite"
        for number, action in history:
            request = requests[number % len(requests)]
            with open_ledger(path) as ledger:
                _act(ledger, request, action)
            model[request.key] = _expected(model.get(request.key, ("none", None, 0, 0)), action)
        with open_ledger(path) as ledger:
            for request in requests:
                entry = ledger.find(request.key)
                seen = ("none", None, 0, 0) if entry is None else (entry.state, entry.reply, entry.sent, entry.attempts)
                assert seen == model.get(request.key, ("none", None, 0, 0))


def _act(ledger: Ledger, request: Request, action: str | Reply) -> None:
    if isinstance(action, Reply):
        ledger.commit(request.key, action)
    elif action == "begin":
        ledger.begin(request)
    elif action != "reopen":
        ledger.fail(request.key, action)


def _expected(before: tuple[str, Reply | None, int, int], action: str | Reply) -> tuple[str, Reply | None, int, int]:
    state, _, sent, attempts = before
    if action == "begin" and state != "answered":
        return ("waiting", None, sent + 1, attempts)
    if isinstance(action, Reply) and state in {"waiting", "failed"}:
        return ("answered", action, sent, attempts + 1)
    if state == "waiting" and action not in {"begin", "reopen"}:
        return ("failed", None, sent, attempts + 1)
    return before


@settings(max_examples=60, deadline=None)
@given(REQUESTS, REQUESTS)
def test_two_requests_share_a_key_exactly_when_they_are_equal(one: Request, other: Request) -> None:
    assert (one.key == other.key) == (one.model_dump(mode="json") == other.model_dump(mode="json"))
    assert Request.model_validate_json(one.model_dump_json()).key == one.key


def test_a_copied_request_with_other_messages_has_another_key() -> None:
    one = _request()
    before = one.key
    other = one.model_copy(update={"messages": (Message(role="user", content="Else?"),)})
    assert other.key != before


def test_an_answer_is_never_replaced(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        ledger.begin(_request())
        ledger.commit(_request().key, _reply("first"))
        ledger.begin(_request())
        ledger.commit(_request().key, _reply("second"))
        ledger.fail(_request().key, "late")
        entry = ledger.find(_request().key)
    assert entry.state == "answered"
    assert entry.reply.text == "first"
    assert entry.sent == 1


def test_eight_threads_write_without_losing_a_row(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:

        def work(thread: int) -> None:
            for i in range(25):
                request = _request(f"{thread} {i}")
                ledger.begin(request)
                ledger.commit(request.key, _reply())

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.counts() == {"waiting": 0, "answered": 200, "failed": 0}


def test_a_committed_answer_outlives_a_process_that_dies_at_once(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    code = (
        "import os, sys; from pathlib import Path; from core.data.record import Message;"
        "from core.label.ledger import *\n"
        "with open_ledger(Path(sys.argv[1])) as ledger:\n"
        "    for text in ('Why?', 'How?'):\n"
        "        r = Request(teacher='t', messages=(Message(role='user', content=text),), temperature=0.0,"
        " max_tokens=9, seed=1)\n"
        "        ledger.begin(r)\n"
        "        if text == 'Why?':\n"
        "            ledger.commit(r.key, Reply(text='So.', finish_reason='stop', prompt_tokens=1,"
        " completion_tokens=1, latency_ms=1.0))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    with open_ledger(path) as ledger:
        assert ledger.find(_request("Why?").key).reply.text == "So."
        assert ledger.find(_request("How?").key).state == "waiting"


def test_a_file_that_is_no_ledger_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.write_bytes(b"this is no database, it is a letter to a friend" * 50)
    with pytest.raises(ArtifactError, match="cannot be used"), open_ledger(path):
        pass


def test_a_ledger_from_the_future_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(ArtifactError, match="version 7 > 2"), open_ledger(path):
        pass


def test_a_full_disk_is_named_as_such(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        pages = ledger._execute("PRAGMA page_count")[0][0]
        ledger._execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFull):
            ledger.begin(_request("x" * 100_000))


def test_a_ledger_of_the_first_version_keeps_its_answers(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with open_ledger(path) as ledger:
        ledger.begin(_request())
        ledger.commit(_request().key, _reply())
    connection = sqlite3.connect(path)
    connection.execute("ALTER TABLE requests DROP COLUMN tool_calls")
    connection.execute("PRAGMA user_version = 1")
    connection.close()

    for _ in range(2):
        with open_ledger(path) as ledger:
            entry = ledger.find(_request().key)
            assert entry is not None
            assert entry.reply == _reply()
