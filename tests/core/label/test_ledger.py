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
from core.label.ledger import Ledger, open_ledger
from core.label.request import Reply, Request, TokenLogprob

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
    logprobs=st.just(())
    | st.just((TokenLogprob(token=7, text="é", logprob=-0.25, top=((7, "é", -0.25), (None, "\x00", -3.5))),)),
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
        "from core.label.ledger import *\nfrom core.label.request import *\n"
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
    with pytest.raises(ArtifactError, match="version 7 > 4"), open_ledger(path):
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
    connection.execute("DROP INDEX requests_spent")
    connection.execute("DROP INDEX requests_recent")
    for column in ("tool_calls", "code", "cost", "session", "logprobs", "answered_s"):
        connection.execute(f"ALTER TABLE requests DROP COLUMN {column}")
    connection.execute("DROP TABLE sessions")
    connection.execute("PRAGMA user_version = 1")
    connection.close()

    for _ in range(2):
        with open_ledger(path) as ledger:
            entry = ledger.find(_request().key)
            assert entry is not None
            assert entry.reply == _reply()


def test_what_a_labelling_took_is_summed_over_its_sessions_killed_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with open_ledger(path) as ledger:
        ledger.start("artifact", "t", questions=3, reused=0)
        ledger.begin(_request("one"))
        ledger.commit(_request("one").key, _reply(), cost=0.5)
        ledger.begin(_request("two"))
    with open_ledger(path) as ledger:
        ledger.start("other", "t", questions=1, reused=0)
        ledger.begin(_request("else"))
        ledger.start("artifact", "t", questions=3, reused=1)
        ledger.begin(_request("two"))
        ledger.fail(_request("two").key, "status 500", "teacher-error")
        ledger.begin(_request("three"))
        ledger.tell(1, ended="done")
        spent = ledger.spent("artifact")
        newest, *_ = ledger.sessions()
    assert (spent.requests, spent.answered, spent.failed, spent.waiting) == (4, 1, 1, 1)
    assert (spent.tokens, spent.cost, spent.priced) == (7, 0.5, 1)
    assert (newest.artifact_id, newest.questions, newest.reused, newest.done, newest.ended) == ("artifact", 3, 1, 1, "done")


def test_a_discarded_answer_is_asked_again_and_what_it_cost_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    with open_ledger(path) as ledger:
        ledger.begin(_request())
        ledger.commit(_request().key, _reply(), cost=0.25)
        assert ledger.discard([_request().key, "unknown"]) == 1
        entry = ledger.find(_request().key)
        assert (entry.state, entry.reply, entry.code) == ("failed", None, "discarded")
        (failed,) = ledger.failed(10)
        assert (failed["code"], failed["asked"]) == ("discarded", "Why?")
        ledger.begin(_request())
        ledger.commit(_request().key, _reply("Better."))
        assert ledger.find(_request().key).reply.text == "Better."
    (kept,) = sqlite3.connect(path).execute("SELECT answer, cost FROM discarded")
    assert kept == ("Because.", 0.25)


def test_what_a_discarded_answer_took_is_counted_once_and_goes_on_counting(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        ledger.start("artifact", "t", questions=1, reused=0)
        ledger.begin(_request())
        ledger.commit(_request().key, _reply(), cost=0.25)
        took = []
        for _ in range(2):
            ledger.discard([_request().key])
            spent = ledger.spent("artifact")
            took.append((spent.requests, spent.tokens, spent.cost, spent.priced))
            ledger.begin(_request())
            ledger.commit(_request().key, _reply("Better."), cost=0.5)
            spent = ledger.spent("artifact")
            took.append((spent.requests, spent.tokens, spent.cost, spent.priced))
    assert took == [(1, 7, 0.25, 1), (2, 14, 0.75, 2), (2, 14, 0.75, 2), (3, 21, 1.25, 3)]


def test_every_record_comes_out_once_in_the_order_of_the_keys(tmp_path: Path) -> None:
    with open_ledger(tmp_path / "l.sqlite") as ledger:
        for number in range(1203):
            ledger.begin(_request(str(number)))
        ledger.commit(_request("7").key, _reply())
        records = list(ledger.records())
    keys = [record["key"] for record in records]
    assert keys == sorted(keys)
    assert len(set(keys)) == 1203
    (answered,) = (record for record in records if record["reply"])
    assert answered["reply"]["text"] == "Because."
