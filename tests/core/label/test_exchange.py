"""The ledger exchanged through a real S3 server: an answer that was paid for on one machine is not paid for on another."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import LabelConfig
from core.contract import Stage
from core.data.record import Message
from core.errors import ArtifactError, BudgetReached, DiskFull, RemoteLockLost, RemoteUnreachable, TeacherFailed
from core.events import Event, Note, SetAside, StageReused
from core.label import segment as module
from core.label.exchange import BELOW, Sending, merge_all
from core.label.label import label
from core.label.ledger import open_ledger
from core.label.ledger_exchange import Exchange, open_exchange
from core.label.request import Reply, Request, TokenLogprob
from core.label.segment import Carried, full_ones, name_of, read
from core.remote.home import LOCK, at_home
from core.remote.lock import Record
from core.remote.segments import put_segment, segments
from core.workspace import Workspace, open_workspace
from tests.core.remote.place import Place

CHILD = [sys.executable, "-m", "tests.core.label.label_at_home"]
REPOSITORY = Path(__file__).parents[3]
THEN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
QUICK = {"attempts": 1, "connect_timeout_s": 0.5, "timeout_s": 2.0, "patience_s": 0.0}


@pytest.fixture
def config(server) -> LabelConfig:
    return LabelConfig(
        teacher="qwen3-8b", backend="openai", base_url=server.base_url, max_tokens=40, concurrency=2, sync_s=0.2
    )


@contextmanager
def machine(root: Path, place: Place, told: list[Event] | None = None, port: int | None = None) -> Iterator[Workspace]:
    """A machine with a workspace folder of its own and the one home in the store, which may be slow where it is not cut off."""
    heard = [] if told is None else told
    cut_off = QUICK if port else {}
    with at_home(place.config(port, **cut_off, lock_expiry_s=1), open_workspace(root), "test", heard.append) as tree:
        yield tree


def answer(number: int, text: str = "Yes.", at: datetime = THEN, **more: object) -> Carried:
    request = Request(
        teacher="t", messages=(Message(role="user", content=f"Question {number}?"),), temperature=0, max_tokens=9, seed=1
    )
    reply = Reply(text=text, finish_reason="stop", prompt_tokens=7, completion_tokens=3, latency_ms=12.5, **more)
    return Carried(
        request=request,
        reply=reply,
        cost=0.25,
        sent=1,
        attempts=1,
        first_sent_at=at,
        finished_at=at,
        artifact_id="0" * 12,
        started_at=THEN,
    )


def put(place: Place, *answers: Carried) -> list[str]:
    """Put answers into the store as another machine does."""
    packed = [segment for segment, _ in full_ones(answers)]
    for segment in packed:
        put_segment(place.store(), f"{BELOW}/{name_of(segment)}", segment)
    return [name_of(segment) for segment in packed]


def merged(workspace: Workspace, place: Place, told: list[Event] | None = None) -> int:
    heard = [] if told is None else told
    with open_ledger(workspace.ledger("label")), open_exchange(workspace.ledger("label")) as exchange:
        return merge_all(exchange, place.store(), workspace, heard.append)


def contents(workspace: Workspace) -> list[dict]:
    with open_ledger(workspace.ledger("label")) as ledger:
        return list(ledger.records())


def test_another_machine_pays_only_for_what_is_new(place, server, config, make_dataset, make_rows, tmp_path) -> None:
    rows = make_rows(12)
    with machine(tmp_path / "first", place) as first:
        label(make_dataset(first, rows), config, first)
    told: list[Event] = []
    changed = [*rows[:-1], rows[-1].model_copy(update={"user": "Something else?"})]
    with machine(tmp_path / "second", place, told) as second:
        other = label(make_dataset(second, changed), config, second, told.append)
    assert (other.asked, other.reused) == (1, 11)
    assert len(server.sent) == 13
    assert [e.text for e in told if isinstance(e, Note) and "12 answers were merged" in e.text]
    assert len(segments(place.store(), BELOW)) >= 2


def test_another_machine_takes_the_finished_labels_as_they_are(
    place, server, config, make_dataset, make_rows, tmp_path
) -> None:
    with machine(tmp_path / "first", place) as first:
        done = label(make_dataset(first, make_rows(8)), config, first)
    told: list[Event] = []
    with machine(tmp_path / "second", place) as second:
        same = label(make_dataset(second, make_rows(8)), config, second, told.append)
    assert same == done
    assert [event for event in told if isinstance(event, StageReused)]
    assert len(server.sent) == 8


def test_a_labelling_that_failed_its_limit_elsewhere_is_gone_on_with(
    place, server, step, config, make_dataset, make_rows, tmp_path
) -> None:
    server.script = {f"Question {number:03}?": [step(status=400)] for number in range(4, 6)}
    with machine(tmp_path / "first", place) as first, pytest.raises(TeacherFailed, match=r"label.max_failed_share"):
        label(make_dataset(first, make_rows(8)), config, first)
    asked = len(server.sent)
    with machine(tmp_path / "second", place) as second:
        done = label(make_dataset(second, make_rows(8)), config, second)
    assert done.unanswered == 0
    assert len(server.sent) - asked == done.asked == 8 - done.reused


@pytest.mark.full
def test_a_machine_that_is_lost_costs_no_answer_older_than_the_interval(
    place, server, step, make_dataset, make_rows, tmp_path
) -> None:
    server.otherwise = step(wait_s=0.05)
    dataset = make_dataset(open_workspace(tmp_path / "first"), make_rows(160))
    remote = place.config(lock_expiry_s=1).model_dump_json()
    arrived: dict[str, float] = {}

    def look() -> None:
        for each in server.sent:
            arrived.setdefault(each.last, time.monotonic())

    argv = [*CHILD, str(tmp_path / "first"), dataset.artifact_id, server.base_url, remote, "0.5"]
    with subprocess.Popen(argv, cwd=REPOSITORY, env=os.environ) as child:
        while len(server.sent) < 80:
            assert child.poll() is None
            look()
            time.sleep(0.01)
        killed_at = time.monotonic()
        child.kill()
    look()
    assert make_dataset(open_workspace(tmp_path / "second"), make_rows(160)).artifact_id == dataset.artifact_id
    argv[3] = str(tmp_path / "second")
    done = subprocess.run(argv, cwd=REPOSITORY, env=os.environ, check=True, capture_output=True, text=True)
    assert "answers were merged" in done.stderr
    times = Counter(each.last for each in server.sent)
    assert len(times) == 160
    twice = [last for last, count in times.items() if count > 1]
    synced_by = killed_at - 0.5 - 1.5  # the interval, and what a slow machine takes to answer and to send
    assert not [last for last in twice if arrived[last] < synced_by]
    assert len(twice) < 80


@pytest.mark.full
def test_a_store_that_goes_down_while_asking_costs_nothing_and_gets_the_answers_later(
    place, proxy, server, step, config, make_dataset, make_rows, tmp_path
) -> None:
    told: list[Event] = []
    server.otherwise = step(wait_s=0.1)
    with machine(tmp_path / "first", place, told, proxy.port) as first:
        dataset = make_dataset(first, make_rows(16))

        def hear(event: Event) -> None:
            told.append(event)
            if event.kind == "progress" and event.done >= 4 and not proxy.faults.refuse:
                proxy.faults.refuse = True
                proxy.drop()

        done = label(dataset, config, first, hear)
    assert (done.asked, done.unanswered) == (16, 0)
    warned = [event.text for event in told if isinstance(event, Note) and "answers are sent later" in event.text]
    assert len(warned) == 1
    proxy.faults.refuse = False
    with machine(tmp_path / "first", place) as first:
        label(make_dataset(first, make_rows(17)), config, first)
    assert merged(open_workspace(tmp_path / "other"), place) == 17
    assert len(server.sent) == 17


def test_nothing_is_asked_while_the_store_cannot_say_what_is_paid_for(
    place, proxy, server, config, make_dataset, make_rows, tmp_path
) -> None:
    with machine(tmp_path / "first", place, port=proxy.port) as first:
        dataset = make_dataset(first, make_rows(4))
        proxy.faults.refuse = True
        proxy.drop()
        with pytest.raises(RemoteUnreachable):
            label(dataset, config, first)
    assert server.sent == []


@pytest.mark.full
def test_another_machine_that_took_the_workspace_ends_the_asking(
    place, server, step, config, make_dataset, make_rows, tmp_path
) -> None:
    server.otherwise = step(wait_s=0.1)
    with machine(tmp_path / "first", place) as first:
        dataset = make_dataset(first, make_rows(400))

        def hear(event: Event) -> None:
            if event.kind == "progress" and event.done >= 4:
                thief = Record(owner="thief", token="f" * 32, beat=0, expiry_s=900)
                place.client.put_object(Bucket=place.bucket, Key=f"kiln/{LOCK}", Body=thief.model_dump_json().encode())

        with pytest.raises(RemoteLockLost, match="held by 'thief'"):
            label(dataset, config, first, hear)
    assert 4 < len(server.sent) < 400


def test_a_budget_counts_what_another_machine_spent(place, server, config, make_dataset, make_rows, tmp_path) -> None:
    limited = config.model_copy(update={"budget": config.budget.model_copy(update={"max_requests": 6})})
    with machine(tmp_path / "first", place) as first, pytest.raises(BudgetReached):
        label(make_dataset(first, make_rows(8)), limited, first)
    with machine(tmp_path / "second", place) as second, pytest.raises(BudgetReached, match="6 >= 6"):
        label(make_dataset(second, make_rows(8)), limited, second)
    assert len(server.sent) == 6


def test_merging_again_or_in_another_order_changes_nothing(place, tmp_path) -> None:
    rich = {
        "tool_calls": ({"id": "c"},),
        "logprobs": (TokenLogprob(token=3, text="Y", logprob=-0.5, top=((3, "Y", -0.5),)),),
    }
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    names = [*put(place, answer(1), answer(2, **rich)), *put(place, answer(1, "Later.", THEN + timedelta(seconds=9)))]
    assert merged(open_workspace(one), place) in {2, 3}  # the later answer may come first
    assert merged(open_workspace(one), place) == 0
    for workspace, order in ((open_workspace(two), names), (open_workspace(three), names[::-1])):
        with open_ledger(workspace.ledger("label")), open_exchange(workspace.ledger("label")) as exchange:
            exchange.begin("elsewhere")
            for name in (*order, *order):
                data = place.client.get_object(Bucket=place.bucket, Key=f"kiln/{BELOW}/{name}")["Body"].read()
                exchange.merge(name, read(name, data))
            assert exchange.unsent(9) == []
    first, second, third = (contents(open_workspace(root)) for root in (one, two, three))
    assert first == second == third
    assert sorted(row["reply"]["text"] for row in first) == ["Later.", "Yes."]
    assert [row["reply"]["logprobs"] for row in first if row["reply"]["tool_calls"]] == [
        [rich["logprobs"][0].model_dump(mode="json")]
    ]


def test_an_answer_that_is_newer_here_stays_and_is_still_sent(place, tmp_path) -> None:
    workspace = open_workspace(tmp_path / "one")
    held = answer(1)
    with open_ledger(workspace.ledger("label")) as ledger:
        ledger.begin(held.request)
        ledger.commit(held.request.key, held.reply.model_copy(update={"text": "Newer."}))
    put(place, held)
    assert merged(workspace, place) == 0
    (row,) = contents(workspace)
    assert row["reply"]["text"] == "Newer."
    with open_exchange(workspace.ledger("label")) as exchange:
        (unsent,) = exchange.unsent(9)
    assert unsent.reply.text == "Newer."


def test_what_a_comparison_s_judge_answered_is_sent_too_and_holds_nothing_else_up(
    place, server, config, make_dataset, make_rows, tmp_path
) -> None:
    from core.label.entries import COMPARISON

    verdict, named = answer(99), f"{COMPARISON}{'1' * 12}"
    with machine(tmp_path / "first", place) as first:
        with open_ledger(first.ledger("label")) as ledger:
            ledger.start(named, "judge", questions=1, reused=0)
            ledger.begin(verdict.request)
            ledger.commit(verdict.request.key, verdict.reply, 0.5)
        label(make_dataset(first, make_rows(8)), config, first)
    other = open_workspace(tmp_path / "other")
    assert merged(other, place) == 9
    with open_ledger(other.ledger("label")) as ledger:
        assert ledger.find(verdict.request.key).reply == verdict.reply
        assert ledger.spent(named).cost == 0.5


@pytest.mark.parametrize("damage", ["logprobs = x'00'", "request = replace(request, 'Question', 'Riddle')"])
def test_a_damaged_row_of_the_ledger_is_told_by_its_key_and_the_asking_goes_on(
    place, server, config, make_dataset, make_rows, tmp_path, damage: str
) -> None:
    told: list[Event] = []
    with machine(tmp_path / "first", place) as first:
        with open_ledger(first.ledger("label")) as ledger:
            ledger.begin(answer(99).request)
            ledger.commit(answer(99).request.key, answer(99).reply)
            ledger._execute(f"UPDATE requests SET {damage}")
        done = label(make_dataset(first, make_rows(8)), config, first, told.append)
    assert done.asked == 8
    (warned,) = [event.text for event in told if isinstance(event, Note) and "answers are sent later" in event.text]
    assert answer(99).request.key in warned


def test_a_full_disk_is_told_by_the_sending_and_does_not_end_it(place, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, told = open_workspace(tmp_path / "one"), []
    held, sent = answer(1), Exchange.sent

    def full(*given: object) -> None:
        monkeypatch.setattr(Exchange, "sent", sent)
        raise DiskFull("no space left", remedy="Free some.")

    with open_ledger(workspace.ledger("label")) as ledger, open_exchange(workspace.ledger("label")) as exchange:
        ledger.begin(held.request)
        ledger.commit(held.request.key, held.reply)
        exchange.begin(place.store().where)
        monkeypatch.setattr(Exchange, "sent", full)
        sending = Sending(exchange, place.store(), 0.05, told.append)
        until = time.monotonic() + 20
        while (not told or exchange.unsent(9)) and time.monotonic() < until:
            time.sleep(0.05)
        sending.close()
        assert exchange.unsent(9) == []
    assert [event.text for event in told] == ["answers are sent later, the asking goes on: no space left. Free some."]


def packed(plain: bytes) -> bytes:
    return zlib.compress(plain)


LINE = module._line(answer(7))
BROKEN: dict[str, tuple[bytes, str]] = {
    "garbage": (b"\x00" * 40, "Error -3 while decompressing data"),
    "cut": (packed(b'{"format":1}\n' + LINE)[:-9], "ends too early"),
    "longer": (packed(b'{"format":1}\n' + LINE) + b"x", "goes on after its end"),
    "another format": (packed(b'{"format":2}\n' + LINE), "it begins with"),
    "bomb": (packed(b'{"format":1}\n' + b" " * (65 << 20)), "unpacks to >"),
    "many": (packed(b"\n".join([b'{"format":1}', *[LINE] * 1001])), "1001 answers > 1000"),
    "no answer": (packed(b'{"format":1}\n{}'), "request: Field required"),
    "nan": (packed(b'{"format":1}\n' + LINE.replace(b"12.5", b"NaN")), "answer 1"),
    "huge number": (
        packed(b'{"format":1}\n' + LINE.replace(b'"prompt_tokens":7', b'"prompt_tokens":' + b"9" * 30)),
        "answer 1",
    ),
    "deep": (packed(b'{"format":1}\n' + b"[" * 100_000), "answer 1"),
    "strange field": (packed(b'{"format":1}\n' + LINE[:-1] + b',"zz":1}'), "Extra inputs"),
    "another form": (packed(b'{"format":1}\n' + LINE.replace(b'":', b'": ')), "as edgekiln writes it"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_segment_that_is_none_is_refused_by_name_and_reason(kind: str) -> None:
    data, reason = BROKEN[kind]
    with pytest.raises(ArtifactError, match=reason) as refused:
        read(name_of(data), data)
    assert name_of(data)[:12] in refused.value.problem


def test_broken_segments_are_set_aside_and_told_and_the_others_merged(place, tmp_path) -> None:
    workspace, told = open_workspace(tmp_path / "one"), []
    put(place, answer(1), answer(2))
    data = BROKEN["nan"][0]
    put_segment(place.store(), f"{BELOW}/{name_of(data)}", data)
    ((whole, _),) = full_ones([answer(3)])
    put_segment(place.store(), f"{BELOW}/{'a' * 64}", whole)
    spoilt = hashlib.sha256(b"what was sent").hexdigest()
    place.client.put_object(
        Bucket=place.bucket, Key=f"kiln/{BELOW}/{spoilt}", Body=b"what came", Metadata={"edgekiln-sha256": spoilt}
    )
    assert merged(workspace, place, told) == 2
    aside = [event for event in told if isinstance(event, SetAside)]
    assert len(aside) == 3
    assert all(event.stage is Stage.LABEL and event.reason for event in aside)
    kept = sorted(path.name for path in (workspace.root / "quarantine").iterdir())
    assert kept == sorted(f"ledger-segment-{name_of(each)[:12]}" for each in (data, whole))
    assert len(contents(workspace)) == 2
    assert merged(workspace, place) == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place_in=st.floats(0, 1), bit=st.integers(0, 7), length=st.none() | st.floats(0, 1))
def test_a_damaged_segment_is_always_noticed(place_in: float, bit: int, length: float | None) -> None:
    ((whole, answers),) = full_ones([answer(number) for number in range(5)])
    assert read(name_of(whole), whole) == answers
    spoilt = bytearray(whole)
    if length is None:
        spoilt[int(place_in * (len(spoilt) - 1))] ^= 1 << bit
    else:
        del spoilt[int(length * (len(spoilt) - 1)) :]
    with pytest.raises(ArtifactError, match="its bytes have sha256"):
        read(name_of(whole), bytes(spoilt))
    with pytest.raises(ArtifactError):
        read(name_of(bytes(spoilt)), bytes(spoilt))


def test_many_answers_make_segments_of_bounded_size() -> None:
    made = list(full_ones([answer(number) for number in range(2300)]))
    assert [len(answers) for _, answers in made] == [1000, 1000, 300]
    fat = list(full_ones([answer(number, "x" * (3 << 20)) for number in range(4)]))
    assert [len(answers) for _, answers in fat] == [2, 2]
