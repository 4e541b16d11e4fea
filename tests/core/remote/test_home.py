"""A workspace with a second home on a real S3 server: what one machine finished, another with nothing goes on from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from core.config import DataConfig, EnvConfig
from core.contract import Stage
from core.errors import RemoteLocked, RemoteLockLost, RemoteRefused, RemoteUnreachable, ToolMissing
from core.events import Event, Note, StageFinished, StageReused
from core.nouns import Dataset, EnvReport, HostFacts, IngestReceipt, SourceRef
from core.promote import Pointer, current
from core.remote.home import LOCK, at_home
from core.remote.lock import Record
from core.remote.standing import standing
from core.stage import Facts, Order, produce
from core.workspace import MANIFEST, Workspace, open_workspace, verify
from tests.core.remote.conftest import SECRET_KEY, Place
from tests.core.remote.proxy import Proxy, s3_error

REPOSITORY = Path(__file__).parents[3]
QUICK = {"attempts": 1, "connect_timeout_s": 0.5, "timeout_s": 2.0, "patience_s": 1.0, "lock_expiry_s": 1}


def machine(
    root: Path, place: Place, told: list[Event] | None = None, port: int | None = None, **more: object
) -> AbstractContextManager[Workspace]:
    heard = [] if told is None else told
    return at_home(place.config(port, **{**QUICK, **more}), open_workspace(root), "test", heard.append)


def dataset(workspace: Workspace, told: list[Event], text: str = "one row", digest: str = "a" * 64) -> Dataset:
    def work(content: Path) -> Facts:
        (content / "rows.jsonl").write_text(text)
        (content / "log.txt").write_text(f"took {time.time()}")
        source = SourceRef(name="rows.jsonl", sha256="a" * 64, shape="record", records=1)
        own = {"sources": (source,), "rows": 1, "train_rows": 1, "held_out_rows": 0, "rejected": 0, "findings": ()}
        return Facts(own=own, without_meaning=frozenset({"log.txt"}))

    order = Order(noun=Dataset, stage=Stage.DATA, version=1, config=DataConfig(sources=("x",)), inputs=(digest,))
    return produce(order, workspace, told.append, work)


def report(workspace: Workspace, told: list[Event]) -> EnvReport:
    host = HostFacts(
        fingerprint="f", arch="x", os="l", cpu_model=None, cpu_features=(), cpus_usable=1, ram_bytes=1, ram_limit_bytes=None
    )
    order = Order(noun=EnvReport, stage=Stage.ENV, version=1, config=EnvConfig(), max_age_s=3600.0)
    return produce(order, workspace, told.append, lambda _content: Facts(own={"host": host, "findings": ()}))


def last(told: list[Event]) -> type[Event]:
    return type([event for event in told if isinstance(event, StageFinished | StageReused)][-1])


def warned(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, Note) and event.level == "warning"]


def test_a_machine_with_nothing_takes_what_another_finished(place: Place, events: list[Event], tmp_path: Path) -> None:
    with machine(tmp_path / "first", place) as first:
        made = dataset(first, events)
    shutil.rmtree(tmp_path / "first")
    with machine(tmp_path / "second", place) as second:
        taken = dataset(second, events)
        assert taken == made
        assert last(events) is StageReused
        verify(second, taken)
        assert not list((second.root / "staging").iterdir())
        assert dataset(second, events, digest="b" * 64).artifact_id != made.artifact_id
        assert last(events) is StageFinished


def test_what_another_machine_can_do_is_found_out_here(place: Place, events: list[Event], tmp_path: Path) -> None:
    with machine(tmp_path / "first", place) as first:
        there = report(first, events)
    with machine(tmp_path / "second", place) as second:
        assert report(second, events).artifact_id != there.artifact_id
        assert last(events) is StageFinished


def test_a_broken_one_here_is_replaced_by_the_whole_one_there(place: Place, events: list[Event], tmp_path: Path) -> None:
    with machine(tmp_path / "first", place) as first:
        made = dataset(first, events)
    path = first.folder(Stage.DATA, made.artifact_id) / "rows.jsonl"
    path.write_text("another")
    with machine(tmp_path / "first", place) as first:
        assert dataset(first, events) == made
        assert path.read_text() == "one row"


def test_a_stage_that_is_forced_is_done_anew_and_both_lie_in_the_store(
    place: Place, events: list[Event], tmp_path: Path
) -> None:
    with machine(tmp_path / "first", place) as first:
        dataset(first, events)
        time.sleep(1.1)  # the store tells times in whole seconds
        forced = Workspace(first.root, frozenset({Stage.DATA}), first.home)
        anew = dataset(forced, events)
    assert last(events) is StageFinished
    assert len([name for name in place.names() if "/artifacts/data/" in name and name.endswith(MANIFEST)]) == 2
    assert warned(events) == []
    with machine(tmp_path / "second", place) as second:
        assert dataset(second, events) == anew


@pytest.mark.parametrize("spoilt", ["rows.jsonl", MANIFEST])
def test_a_broken_one_in_the_store_is_passed_over_and_made_here(
    place: Place, events: list[Event], tmp_path: Path, spoilt: str
) -> None:
    with machine(tmp_path / "first", place) as first:
        made = dataset(first, events)
    (name,) = [each for each in place.names() if "/artifacts/" in each and each.endswith(spoilt)]
    place.client.put_object(Bucket=place.bucket, Key=name, Body=b"hostile")
    told: list[Event] = []
    with machine(tmp_path / "second", place, told) as second:
        assert dataset(second, events).content_digest == made.content_digest
    assert last(events) is StageFinished
    assert [text for text in warned(told) if "is passed over" in text]


@pytest.mark.full
def test_what_an_earlier_job_could_not_send_goes_with_the_next(
    place: Place, proxy: Proxy, events: list[Event], tmp_path: Path
) -> None:
    told: list[Event] = []
    with machine(tmp_path / "first", place, told, proxy.port) as first:
        proxy.faults.refuse = True
        proxy.drop()
        made = dataset(first, events)
    assert [text for text in warned(told) if f"not uploaded yet: {made.artifact_id}" in text]
    assert not [name for name in place.names() if "/artifacts/" in name]
    proxy.faults.refuse = False
    with machine(tmp_path / "first", place, port=proxy.port):
        pass
    with machine(tmp_path / "second", place) as second:
        assert dataset(second, events) == made


@pytest.mark.parametrize("kind", ["down", "refused", "no key"])
def test_a_store_that_cannot_be_used_is_told_before_anything_is_worked(
    place: Place, proxy: Proxy, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: dict[str, type[Exception]] = {"down": RemoteUnreachable, "refused": RemoteRefused, "no key": ToolMissing}
    proxy.faults.refuse = kind == "down"
    if kind == "refused":
        proxy.faults.says = [s3_error("403 Forbidden", "InvalidAccessKeyId")] * 20
    if kind == "no key":
        monkeypatch.delenv("STORE_SECRET")
    began = time.monotonic()
    with pytest.raises(expected[kind]) as told, machine(tmp_path / "first", place, port=proxy.port):
        raise AssertionError("the work began")
    assert time.monotonic() - began < 10
    assert SECRET_KEY not in str(told.value)


@pytest.mark.full
def test_of_two_machines_at_once_one_works_and_the_other_is_told_by_whom(
    place: Place, events: list[Event], tmp_path: Path
) -> None:
    with machine(tmp_path / "first", place), pytest.raises(RemoteLocked, match=r"held by '.*process") as refused:
        machine(tmp_path / "second", place, events).__enter__()
    assert refused.value.exit_status == 6
    assert [event.text for event in events if isinstance(event, Note) and "waiting for it" in event.text]
    with machine(tmp_path / "second", place) as second:
        assert second.home is not None


def test_a_machine_that_waits_gets_the_workspace_when_the_other_is_done(place: Place, tmp_path: Path) -> None:
    took: list[float] = []

    def wait() -> None:
        with machine(tmp_path / "second", place):
            took.append(time.monotonic())

    rival = threading.Thread(target=wait)
    with machine(tmp_path / "first", place):
        rival.start()
        time.sleep(1.5)
        assert took == []
    rival.join(20)
    assert len(took) == 1


@pytest.mark.full
def test_work_ends_at_the_next_stage_when_another_machine_took_the_workspace(
    place: Place, events: list[Event], tmp_path: Path
) -> None:
    told: list[Event] = []
    with machine(tmp_path / "first", place, told) as first:
        thief = Record(owner="thief", token="f" * 32, beat=0, expiry_s=900)
        place.client.put_object(Bucket=place.bucket, Key=f"kiln/{LOCK}", Body=thief.model_dump_json().encode())
        until = time.monotonic() + 30
        while not [text for text in warned(told) if "another machine took the workspace" in text]:
            assert time.monotonic() < until
            time.sleep(0.1)
        with pytest.raises(RemoteLockLost, match="held by 'thief'"):
            dataset(first, events)


@pytest.mark.full
def test_an_outage_longer_than_the_lock_ends_nothing_where_nobody_came(
    place: Place, proxy: Proxy, events: list[Event], tmp_path: Path
) -> None:
    told: list[Event] = []
    with machine(tmp_path / "first", place, told, proxy.port) as first:
        proxy.faults.refuse = True
        proxy.drop()
        time.sleep(2.5)
        made = dataset(first, events)
        proxy.faults.refuse = False
        until = time.monotonic() + 30
        while not [event for event in told if isinstance(event, Note) and "is taken again" in event.text]:
            assert time.monotonic() < until
            time.sleep(0.1)
    assert [name for name in place.names() if made.artifact_id in name and name.endswith(MANIFEST)]


CHILD = """
import sys, time
from pathlib import Path
from core.remote.home import at_home
from core.remote.settings import RemoteConfig
from core.workspace import open_workspace
from tests.core.remote.test_home import dataset
with at_home(RemoteConfig.model_validate_json(sys.argv[2]), open_workspace(Path(sys.argv[1])), "child", print) as tree:
    dataset(tree, [], "x" * 4_000_000)
    print("made", flush=True)
    time.sleep(600)
"""


@pytest.mark.full
def test_kill_9_while_an_artifact_is_sent_leaves_no_half_one_to_take(
    place: Place, proxy: Proxy, events: list[Event], tmp_path: Path
) -> None:
    place.store(proxy.port).traits()
    proxy.faults.up_bytes_s = 500_000
    remote = place.config(proxy.port, lock_expiry_s=1).model_dump_json()
    argv = [sys.executable, "-c", CHILD, str(tmp_path / "first"), remote]
    with subprocess.Popen(argv, cwd=REPOSITORY, env=os.environ, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        while "made" not in child.stdout.readline():
            assert child.poll() is None
        time.sleep(0.5)
        child.kill()
    proxy.faults.up_bytes_s = 0
    assert not [name for name in place.names() if "/artifacts/" in name and name.endswith(MANIFEST)]
    with machine(tmp_path / "second", place) as second:
        assert dataset(second, events).rows == 1
        assert last(events) is StageFinished


def test_decisions_and_pointers_travel_and_the_newer_stands(place: Place, events: list[Event], tmp_path: Path) -> None:
    from datetime import UTC, datetime

    with machine(tmp_path / "first", place) as first:
        first.decisions.parent.mkdir()
        first.decisions.write_text("one\n")
        pointer = Pointer(profile="demo", artifact_id="a" * 12, promoted_at=datetime.now(UTC))
        first.pointer("demo").write_text(pointer.model_dump_json())
        first.journal.write_text("under way")
    with machine(tmp_path / "second", place) as second:
        assert second.decisions.read_text() == "one\n"
        assert current(second, "demo") == pointer
        assert not second.journal.exists()
        second.decisions.write_text("one\ntwo\n")
        later = time.time() + 5
        os.utime(second.decisions, (later, later))
    told: list[Event] = []
    early = time.time() - 500
    os.utime(first.decisions, (early, early))
    with machine(tmp_path / "first", place, told) as first:
        assert first.decisions.read_text() == "one\ntwo\n"
    (aside,) = [path for path in (first.root / "quarantine").iterdir() if path.name.startswith("decisions-data.jsonl")]
    assert aside.read_text() == "one\n"
    assert [event for event in told if isinstance(event, Note) and "the older is" in event.text]


def test_a_strange_name_among_the_kept_files_is_not_followed(place: Place, events: list[Event], tmp_path: Path) -> None:
    for name in ("../escape", "current/journal.json", "ledger/label.sqlite", "current/a/b.json", "lock"):
        place.client.put_object(Bucket=place.bucket, Key=f"kiln/kept/{name}", Body=b"x")
    place.client.put_object(Bucket=place.bucket, Key="kiln/kept/current/demo.json", Body=b"no hash of ours")
    with machine(tmp_path / "first", place, events) as first:
        assert list((first.root / "current").iterdir()) == []
        assert not (first.root / "ledger" / "label.sqlite").exists()
    assert [text for text in warned(events) if "current/demo.json" in text]
    assert not (tmp_path / "escape").exists()


def test_what_lies_there_and_what_only_here_is_told(place: Place, events: list[Event], tmp_path: Path) -> None:
    with machine(tmp_path / "first", place) as first:
        made = dataset(first, events)
        held = standing(place.store(), first)
        assert held.held_by is not None
        assert f"process {os.getpid()} (test)" in held.held_by
    alone = dataset(open_workspace(first.root), events, digest="b" * 64)
    for name in (
        "checkpoints/train-1/step-00000020-ab/manifest.json",
        "checkpoints/train-1/step-00000030-ab/x",
        "ledger/label/a",
    ):
        place.client.put_object(Bucket=place.bucket, Key=f"kiln/{name}", Body=b"")
    found = standing(place.store(), first)
    assert made.artifact_id != alone.artifact_id
    assert found.unsent == (f"data {alone.artifact_id}",)
    assert (found.held_by, found.artifacts, found.segments) == (None, {Stage.DATA: 1}, 1)
    assert found.checkpoints == {"train-1": 20}


def test_without_a_section_remote_nothing_changes(events: list[Event], tmp_path: Path) -> None:
    from core.remote.settings import RemoteConfig

    plain = open_workspace(tmp_path / "plain")
    with at_home(RemoteConfig(), plain, "test", events.append) as tree:
        assert tree is plain
    assert events == []


def test_a_receipt_of_another_database_is_no_reason_not_to_write_into_this_one(
    place: Place, events: list[Event], tmp_path: Path
) -> None:
    from core.config import IngestConfig

    def receipt(workspace: Workspace) -> IngestReceipt:
        order = Order(noun=IngestReceipt, stage=Stage.INGEST, version=1, config=IngestConfig())
        own = {"migration": 1, "inserted": 1, "already_there": 0, "result_ids": ()}
        return produce(order, workspace, events.append, lambda _content: Facts(own=own))

    with machine(tmp_path / "first", place) as first:
        receipt(first)
    with machine(tmp_path / "second", place) as second:
        receipt(second)
    assert last(events) is StageFinished
