"""Programs and workers: real child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from core.contract import Contract, Stage
from core.errors import NoRowsLeft, ProcessFailed, ToolMissing
from core.events import Event, Note, ignore
from core.process import beside, capture, python_module, run
from core.worker_process import call, call_together


def test_output_goes_to_its_file_and_errors_to_the_log(tmp_path: Path) -> None:
    script = "import sys; print('rows'); print('told', file=sys.stderr)"
    run([sys.executable, "-c", script], log=tmp_path / "log", stdout=tmp_path / "out", timeout_s=30)
    assert (tmp_path / "out").read_text() == "rows\n"
    assert (tmp_path / "log").read_text() == "told\n"


def test_a_bad_end_names_the_program_its_status_and_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="status 3: no such model"):
        run([sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"], log=tmp_path / "log", timeout_s=30)


def test_a_crash_names_its_signal(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="SIGSEGV"):
        run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], log=tmp_path / "log", timeout_s=30)


def test_a_program_that_overruns_is_killed_with_its_children(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); time.sleep(600)\n"
    )
    with pytest.raises(ProcessFailed, match=r"ran > 1\.5 s"):
        run([sys.executable, "-c", script], log=tmp_path / "log", timeout_s=1.5)
    assert _ends_soon(int((tmp_path / "pid").read_text()))


def _ends_soon(pid: int) -> bool:
    """Wait for a process that was killed: on a busy machine it takes a moment to die."""
    for _ in range(100):
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_a_missing_program_is_an_error_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="no-such-program"):
        run(["no-such-program"], log=tmp_path / "log", timeout_s=5)
    with pytest.raises(ToolMissing, match="no-such-program"):
        capture(["no-such-program"], timeout_s=5)


def test_capture_returns_output_and_refuses_failure_and_hanging() -> None:
    assert capture([sys.executable, "-c", "print('hello')"], timeout_s=30) == "hello\n"
    with pytest.raises(ProcessFailed, match="status 4"):
        capture([sys.executable, "-c", "raise SystemExit(4)"], timeout_s=30)
    with pytest.raises(ProcessFailed, match=r"ran > 0\.5 s"):
        capture([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.5)


def test_a_word_with_shell_signs_reaches_the_program_as_it_is() -> None:
    word = "$(touch /tmp/never); `id` && 'x"
    assert capture([sys.executable, "-c", "import sys; print(sys.argv[1])", word], timeout_s=30) == word + "\n"


class Answer(Contract):
    doubled: int


class Question(Contract):
    number: int
    mode: str = "answer"


WORKER = """
import contextlib, os, resource, sys, time
sys.path.insert(0, {root!r})
from core.contract import Contract, Stage
from core.errors import NoRowsLeft
from core.events import Note
from core.worker_process import main

class Question(Contract):
    number: int
    mode: str = "answer"

class Answer(Contract):
    doubled: int

def work(request, folder, on_event):
    on_event(Note(stage=Stage.TRAIN, text="thinking"))
    if request.mode == "refuse":
        raise NoRowsLeft("0 rows < 1", remedy="Add rows.")
    if request.mode == "crash":
        os.abort()
    if request.mode == "full":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "events.jsonl").stat().st_size + 10, limits[1]))
        with contextlib.suppress(OSError):
            on_event(Note(stage=Stage.TRAIN, text="nobody hears this"))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        on_event(Note(stage=Stage.TRAIN, text="there is space again"))
    if request.mode == "hang":
        (folder / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    return Answer(doubled=2 * request.number)

main(Question, work)
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    root = str(Path(__file__).parents[2])
    (tmp_path / "doubling_worker.py").write_text(WORKER.format(root=root))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{root}")  # this checkout's core, whichever is installed
    return "doubling_worker"


def test_a_worker_answers_and_its_events_are_forwarded(worker: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    answer = call(worker, Question(number=21), Answer, tmp_path / "call", heard.append, timeout_s=60)
    assert answer.doubled == 42
    assert [event.text for event in heard if isinstance(event, Note)] == ["thinking"]
    assert heard[0].stage is Stage.TRAIN  # type: ignore[union-attr]


def test_a_workers_own_error_is_raised_here(worker: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    with pytest.raises(NoRowsLeft, match="0 rows < 1") as caught:
        call(worker, Question(number=1, mode="refuse"), Answer, tmp_path / "call", heard.append, timeout_s=60)
    assert caught.value.remedy == "Add rows."


def test_an_event_that_a_full_disk_took_half_of_spoils_none_after_it(worker: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    call(worker, Question(number=1, mode="full"), Answer, tmp_path / "call", heard.append, timeout_s=60)
    assert [event.text for event in heard if isinstance(event, Note)] == ["thinking", "there is space again"]


def test_a_worker_that_dies_is_a_failure_with_its_signal(worker: str, tmp_path: Path) -> None:
    with pytest.raises(ProcessFailed, match="SIGABRT"):
        call(worker, Question(number=1, mode="crash"), Answer, tmp_path / "call", ignore, timeout_s=60)


def test_workers_side_by_side_answer_and_one_that_dies_stops_none(worker: str, tmp_path: Path) -> None:
    heard: list[Event] = []
    modes = ("answer", "crash", "answer")
    asked = [(Question(number=n, mode=mode), tmp_path / str(n), {}) for n, mode in enumerate(modes)]
    answers = call_together(worker, asked, Answer, heard.append)
    assert [answer and answer.doubled for answer in answers] == [0, None, 4]
    assert len(heard) == 3


def test_an_error_of_one_worker_ends_those_beside_it(worker: str, tmp_path: Path) -> None:
    asked = [(Question(number=n, mode=mode), tmp_path / str(n), {}) for n, mode in enumerate(("hang", "refuse"))]
    with pytest.raises(NoRowsLeft, match="0 rows < 1"):
        call_together(worker, asked, Answer, ignore, grace_s=1.0)
    pid = tmp_path / "0" / "pid"
    assert not pid.exists() or _ends_soon(int(pid.read_text()))


def test_kill_9_of_the_caller_takes_its_worker_along(worker: str, tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\nfrom core.contract import Contract\nfrom core.worker_process import call\n"
        "class Q(Contract):\n    number: int = 1\n    mode: str = 'hang'\n"
        f"call({worker!r}, Q(), Q, Path({str(tmp_path / 'call')!r}), lambda e: None, timeout_s=60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    pid_file = tmp_path / "call" / "pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    pid = int(pid_file.read_text())
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_python_module_uses_this_interpreter() -> None:
    assert python_module("core.x", "a") == [sys.executable, "-P", "-m", "core.x", "a"]


def test_a_file_of_the_current_folder_never_takes_a_modules_place(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('my own random.py ran')")
    run(python_module("tempfile"), log=tmp_path / "log", timeout_s=30, cwd=tmp_path)


def test_a_program_beside_a_block_has_a_session_of_its_own_and_ends_with_the_block(tmp_path: Path) -> None:
    ready, told = os.pipe()
    program = f"import os, time; os.write({told}, b'x'); time.sleep(60)"
    with beside([sys.executable, "-c", program], log=tmp_path / "log", pass_fds=(told,)) as child:
        assert os.read(ready, 1) == b"x"
        assert os.getsid(child.pid) == child.pid
    assert child.returncode is not None
