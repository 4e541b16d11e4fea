"""Workers that outlive whoever started them: real processes, killed, taken over, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from core import attended_worker
from core.attended_worker import Worker
from core.contract import Contract
from core.errors import WorkspaceLocked
from core.events import Event, Note
from core.process import Child, start

REPOSITORY = Path(__file__).parents[2]
WORKER = """
import signal, sys, time
from pathlib import Path
from core.events import Note
from core.worker_process import die_with_parent
die_with_parent()
folder = Path(sys.argv[1])
if (folder.parent / "deaf").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for number in range(600):
    with (folder / "events.jsonl").open("ab", buffering=0) as stream:
        stream.write(Note(stage=None, text=str(number)).model_dump_json().encode() + b"\\n")
    time.sleep(0.02)
"""
STARTER = """
import importlib.util, signal, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("told", sys.argv[1])
told = importlib.util.module_from_spec(spec)
spec.loader.exec_module(told)
worker = told.begun(Path(sys.argv[2]), outlives=sys.argv[3] == "outlives")
with told.attended_worker.attending(Path(sys.argv[2]).parent / "supervisor"):
    tail = told.attended_worker.events_of(worker.folder, lambda event: print(event.text, flush=True))
    told.attended_worker.follow(worker, tail, lambda: None, grace_s=5)
"""


class Request(Contract):
    """Nothing is asked of this worker."""


def launch(folder: Path, lock: int, outlives: bool) -> Child:
    env = {"EDGEKILN_PARENT": "" if outlives else str(os.getpid()), "PYTHONPATH": str(REPOSITORY)}
    return start([sys.executable, "-c", WORKER, str(folder)], log=folder / "worker.log", env=env, pass_fds=(lock,))


def begun(folder: Path, *, outlives: bool = True) -> Worker:
    return attended_worker.begin(folder, Request(), launch, outlives=outlives)


def waited_for(so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return so()


def heard_by(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "0001"
    Worker(tmp_path / "0001", child=None).end(0)


def starter(folder: Path, how: str) -> subprocess.Popen[bytes]:
    """Start a process that starts a worker and follows it; it is killed once it has heard three events."""
    command = [sys.executable, "-c", STARTER, __file__, str(folder), how]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    heard = [process.stdout.readline() for _ in range(3)]
    assert heard == [b"0\n", b"1\n", b"2\n"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    return process


def test_a_worker_whose_starter_is_killed_goes_on_and_another_process_hears_the_rest(folder):
    starter(folder, "outlives")
    worker = Worker(folder, child=None)
    written = len(heard_by(folder / "events.jsonl"))
    assert waited_for(lambda: len(heard_by(folder / "events.jsonl")) > written)
    heard: list[Event] = []

    def tick() -> None:
        if len(heard) >= 5:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        attended_worker.follow(worker, attended_worker.events_of(folder, heard.append), tick, grace_s=5)
    first = int(heard[0].text)
    assert [event.text for event in heard if isinstance(event, Note)] == [str(n) for n in range(first, first + len(heard))]
    assert first >= 1  # what the first process had heard, up to its last moment, does not come again
    assert not worker.is_alive()


def test_a_worker_that_is_not_to_outlive_its_starter_ends_with_it(folder):
    starter(folder, "with it")
    assert waited_for(lambda: not Worker(folder, child=None).is_alive())


def test_one_that_hears_no_sigterm_is_killed_after_its_grace_by_who_took_it_over(folder):
    (folder.parent / "deaf").touch()
    own = begun(folder)
    assert waited_for(lambda: heard_by(folder / "events.jsonl") != [])
    worker = Worker(folder, child=None)
    began = time.monotonic()
    worker.end(0.5)
    assert 0.5 <= time.monotonic() - began < 10
    assert not worker.is_alive()
    own.end(0)
    assert own.was_killed()
    assert own.how_it_ended() == "the worker ended with signal SIGKILL"


def test_a_process_that_only_has_the_workers_number_is_left_alone(folder):
    worker = begun(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        stranger = psutil.Process(other.pid)
        (folder / "process.json").write_text(json.dumps({"pid": other.pid, "created": stranger.create_time() - 5}))
        Worker(folder, child=None).end(0)
        assert worker.is_alive()
        assert stranger.is_running()
        other.kill()
    worker.end(0)
    assert not worker.is_alive()


def test_only_one_process_attends_and_when_it_is_gone_another_may(tmp_path):
    lock = tmp_path / "supervisor"
    assert not attended_worker.is_attended(lock)
    with attended_worker.attending(lock):
        assert attended_worker.is_attended(lock)
        with pytest.raises(WorkspaceLocked), attended_worker.attending(lock):
            pass
    assert not attended_worker.is_attended(lock)
    with attended_worker.attending(lock):
        pass
