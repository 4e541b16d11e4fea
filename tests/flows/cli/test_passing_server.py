"""The Prefect server of one run: it answers, hears no Ctrl-C of the run's group, and is gone with the run whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from core.errors import ServiceError
from flows.cli.passing_server import passing_server, wait_for

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.prefect


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def gone(pid: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.usefixtures("places")
def test_it_answers_and_ends_with_the_block() -> None:
    before = set(psutil.Process().children())
    with passing_server() as url:
        (child,) = set(psutil.Process().children()) - before
        wait_for(url)
        assert urlopen(f"{url}/health").read() == b"true"
        assert os.getsid(child.pid) == child.pid
    assert gone(child.pid)


def test_kill_9_of_the_run_takes_it_along(places: Path) -> None:
    program = (
        "import os, psutil, signal; from flows.cli.passing_server import passing_server\n"
        "with passing_server():\n"
        "    print(psutil.Process().children()[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    assert gone(int(done.stdout))


def test_a_server_that_dies_at_once_is_told_with_its_log(places: Path) -> None:
    (places / "prefect" / "prefect.db").mkdir(parents=True)  # a folder where its database should be
    with passing_server() as url, pytest.raises(ServiceError, match="did not come up") as refused:
        wait_for(url)
    assert "prefect-server.log" in refused.value.remedy


def test_a_prefect_folder_that_cannot_be_written_is_told_at_once(places: Path) -> None:
    (places / "prefect").write_bytes(b"")  # a file in its place
    with pytest.raises(ServiceError, match="cannot be written"), passing_server():
        pass
