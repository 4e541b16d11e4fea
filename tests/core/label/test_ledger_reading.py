"""Looking into a ledger: what a reader may not do to it, and what it can read."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.data.record import Message
from core.errors import ArtifactError, ArtifactMissing, WorkspaceUnwritable
from core.label.ledger import open_ledger, read_ledger
from core.label.ledger_export import export_ledger
from core.label.request import Reply, Request
from core.label.status import status

NOBODY = 65534


def _request(text: str = "Why?") -> Request:
    return Request(teacher="t", messages=(Message(role="user", content=text),), temperature=0.0, max_tokens=9, seed=1)


def _reply() -> Reply:
    return Reply(text="Because.", finish_reason="stop", prompt_tokens=5, completion_tokens=2, latency_ms=1.5)


def _written(path: Path, version: int = 4) -> Path:
    """Write a ledger with an answered and a failed request, as an edgekiln of that version did."""
    with open_ledger(path) as ledger:
        ledger.start("artifact", "t", questions=3, reused=0)
        ledger.begin(_request())
        ledger.commit(_request().key, _reply(), cost=0.5)
        ledger.begin(_request("How?"))
        ledger.fail(_request("How?").key, "status 500")
        ledger.tell(2, "done")
    connection = sqlite3.connect(path)
    for index in ("requests_spent", "requests_recent") if version < 4 else ():
        connection.execute(f"DROP INDEX {index}")
    if version == 3:
        connection.execute("CREATE INDEX requests_recent ON requests (session, finished_at) WHERE state = 'answered'")
    for came_in, columns in ((2, ["tool_calls"]), (3, ["code", "cost", "session", "logprobs"]), (4, ["answered_s"])):
        for column in columns if version < came_in else ():
            connection.execute(f"ALTER TABLE requests DROP COLUMN {column}")
    for table in ("sessions", "discarded") if version < 3 else ():
        connection.execute(f"DROP TABLE {table}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    return path


@pytest.fixture
def shut_folder() -> Iterator[Path]:
    """Return a folder that can be written, until `_forbidden` says otherwise; pytest's own are root's alone."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def _forbidden(folder: Path) -> Iterator[None]:
    """Take the right to write the folder and what lies in it, from root too."""
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def _bytes(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), path.stat().st_mtime_ns


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_reader_reads_every_version_and_changes_none(tmp_path: Path, version: int) -> None:
    path = _written(tmp_path / "l.sqlite", version)
    before = _bytes(path)
    with read_ledger(path) as ledger:
        assert ledger.counts() == {"waiting": 0, "answered": 1, "failed": 1}
        assert ledger.find(_request().key).reply == _reply()
        records = {record["key"]: record for record in ledger.records()}
        assert records[_request().key]["cost"] == (0.5 if version >= 3 else None)
        (failed,) = ledger.failed(9)
        assert (failed["error"], failed["asked"]) == ("status 500", "How?")
        assert (status(ledger) is not None) == (version >= 3)
    assert _bytes(path) == before


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_ledger_of_every_version_is_gone_on_with(tmp_path: Path, version: int) -> None:
    path = _written(tmp_path / "l.sqlite", version)
    for number in range(2):
        with open_ledger(path) as ledger:
            assert ledger.find(_request().key).reply == _reply()
            ledger.start("artifact", "t", questions=9, reused=1)
            ledger.begin(_request(f"More {number}?"))
            ledger.commit(_request(f"More {number}?").key, _reply())
            assert ledger.counts()["answered"] == 2 + number
            (newest, *_) = ledger.sessions()
            assert len(ledger.recent(newest.session, 9)) == 1


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    path = _written(tmp_path / "l.sqlite")
    with read_ledger(path) as ledger, pytest.raises(WorkspaceUnwritable, match="readonly"):
        ledger.begin(_request("More?"))


def test_a_reader_makes_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing), read_ledger(tmp_path / "nowhere" / "l.sqlite"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_reader_sees_what_a_labelling_that_runs_has_committed_and_holds_nothing_up(tmp_path: Path) -> None:
    path = _written(tmp_path / "l.sqlite")
    with open_ledger(path) as writer, read_ledger(path) as reader:
        records = reader.records()
        next(records)
        writer.begin(_request("Next?"))
        assert reader.counts()["waiting"] == 1
        writer.commit(_request("Next?").key, _reply())
        assert reader.counts() == {"waiting": 0, "answered": 2, "failed": 1}
        assert len(list(records)) <= 2
    assert open_and_count(path) == 3


def open_and_count(path: Path) -> int:
    with open_ledger(path) as ledger:
        return sum(ledger.counts().values())


def test_what_was_committed_before_a_kill_is_read_although_it_lies_beside_the_file(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tests.core.label.test_ledger_reading import _request, _reply, open_ledger\n"
        "with open_ledger(Path(sys.argv[1])) as ledger:\n"
        "    ledger.begin(_request()); ledger.commit(_request().key, _reply()); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    before = _bytes(path)
    with read_ledger(path) as ledger:
        assert ledger.find(_request().key).reply == _reply()
    assert _bytes(path) == before


def test_a_ledger_that_may_not_be_written_is_read(shut_folder: Path) -> None:
    path = _written(shut_folder / "l.sqlite")
    with _forbidden(shut_folder), read_ledger(path) as ledger:
        assert ledger.counts() == {"waiting": 0, "answered": 1, "failed": 1}
    assert [each.name for each in shut_folder.iterdir()] == ["l.sqlite"]


def test_a_ledger_on_a_full_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _written(tmp_path / "l.sqlite")
    (tmp_path / "l.sqlite-wal").touch()  # one that SQLite could begin but not go on with
    monkeypatch.setattr("core.label.ledger.disk_usage", lambda _: shutil.disk_usage(tmp_path)._replace(free=4096))
    with read_ledger(path) as ledger:
        assert ledger.counts() == {"waiting": 0, "answered": 1, "failed": 1}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["l.sqlite", "l.sqlite-wal"]


def test_a_labelling_that_may_not_write_its_ledger_says_so_and_does_not_advise_to_move_it_away(shut_folder: Path) -> None:
    path = _written(shut_folder / "l.sqlite")
    with (
        _forbidden(shut_folder),
        pytest.raises(WorkspaceUnwritable, match="may not be written") as refused,
        open_ledger(path),
    ):
        pass
    assert "Move" not in refused.value.remedy


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = _bytes(path)
    for way in (open_ledger, read_ledger):
        with pytest.raises(ArtifactError, match="no ledger"), way(path):
            pass
    assert _bytes(path) == before


def test_a_folder_in_the_ledger_s_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").mkdir()
    for way in (open_ledger, read_ledger):
        with pytest.raises(ArtifactError, match="is a folder"), way(tmp_path / "l.sqlite"):
            pass


def test_an_empty_file_in_the_ledger_s_place_holds_nothing_and_stays_empty(tmp_path: Path) -> None:
    path = tmp_path / "l.sqlite"
    path.touch()
    with read_ledger(path) as ledger:
        assert status(ledger) is None
        assert list(ledger.records()) == []
    assert path.read_bytes() == b""


def test_a_name_with_signs_of_an_address_is_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a?mode=rwc#%20b"
    folder.mkdir()
    with read_ledger(_written(folder / "l.sqlite")) as ledger:
        assert ledger.counts()["answered"] == 1
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


ROTTEN = {
    "tool_calls": "'[broken'",
    "logprobs": "x'00112233'",
    "finish_reason": "NULL",
    "prompt_tokens": "NULL",
    "latency_ms": "NULL",
    "request": "'{broken'",
}


@pytest.mark.parametrize("column", ROTTEN)
def test_a_row_that_cannot_be_read_is_named_with_what_to_do_about_it(tmp_path: Path, column: str) -> None:
    path = _written(tmp_path / "l.sqlite")
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE requests SET {column} = {ROTTEN[column]}")
    connection.commit()
    connection.close()
    looks = {"failed": lambda ledger: ledger.failed(9), "jsonl": lambda ledger: export_ledger(ledger, tmp_path / "o.jsonl")}
    if column != "request":
        looks = {"find": lambda ledger: ledger.find(_request().key), "records": lambda ledger: list(ledger.records())}
    for name, look in looks.items():
        with read_ledger(path) as ledger, pytest.raises(ArtifactError, match="cannot be read") as raised:
            look(ledger)
        assert str(path) in raised.value.problem, name
        assert "DELETE FROM requests WHERE key = '" in raised.value.remedy
    for key in (_request().key, _request("How?").key):  # what the remedy says helps
        connection = sqlite3.connect(path)
        connection.execute(f"DELETE FROM requests WHERE key = '{key}'")
        connection.commit()
        connection.close()
    with open_ledger(path) as ledger:
        assert ledger.find(_request().key) is None


def test_a_session_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = _written(tmp_path / "l.sqlite")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE sessions SET started_at = 'yesterday'")
    connection.commit()
    connection.close()
    with read_ledger(path) as ledger, pytest.raises(ArtifactError, match="session 1 cannot be read") as raised:
        status(ledger)
    assert "DELETE FROM sessions WHERE session = 1" in raised.value.remedy


@pytest.mark.timeout(20)
@pytest.mark.parametrize("door", [open_ledger, read_ledger])
def test_what_is_no_file_is_not_waited_for_and_not_blamed_on_the_disk(tmp_path: Path, door) -> None:
    pipe, link = tmp_path / "pipe.sqlite", tmp_path / "link.sqlite"
    os.mkfifo(pipe)
    link.symlink_to(tmp_path / "nowhere" / "l.sqlite")
    with pytest.raises(ArtifactError, match=r"pipe\.sqlite is no regular file"), door(pipe):
        pass
    with (
        pytest.raises(ArtifactError, match=r"link\.sqlite is a link to .*nowhere/l\.sqlite, which is not there"),
        door(link),
    ):
        pass


def test_a_ledger_that_lies_elsewhere_is_followed(tmp_path: Path) -> None:
    _written(tmp_path / "l.sqlite")
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "l.sqlite")
    with open_ledger(tmp_path / "link.sqlite") as ledger:
        assert ledger.counts()["answered"] == 1


def test_a_damaged_ledger_is_not_to_be_thrown_away_lightly(tmp_path: Path) -> None:
    path = _written(tmp_path / "l.sqlite")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    for door in (open_ledger, read_ledger):
        with pytest.raises(ArtifactError, match="malformed") as raised, door(path) as ledger:
            ledger.counts()
        assert "Put back a copy" in raised.value.remedy
