"""Ctrl-C while a worker is inside llama.cpp, which calls a Python function to log and would lose a signal that comes then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]
WORK = {
    "answers": "from core.export.gguf_answer.answer import answer; [answer(gguf, scratch) for _ in range(50)]",
    "becomes a student": "\n".join(
        (
            "from core.train import student",
            "from core.worker_process import call",
            "asked = student.MaterialiseRequest(gguf=str(gguf), target=str(scratch / 'hf'))",
            "call('core.train.materialise.worker', asked, student.MaterialiseResult, scratch, print, timeout_s=600)",
        )
    ),
}


@pytest.mark.parametrize("work", ["answers", pytest.param("becomes a student", marks=pytest.mark.full)])
def test_ctrl_c_ends_what_uses_llama_cpp_and_its_worker_with_it(
    toolchain: object, default_gguf: Path, tmp_path: Path, work: str
) -> None:
    program = (
        f"from pathlib import Path\ngguf, scratch = Path({str(default_gguf)!r}), Path({str(tmp_path)!r})\n{WORK[work]}"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, start_new_session=True) as child:
        worker = loaded_in(child)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        sent = time.perf_counter()
        _, errors = child.communicate(timeout=30)
    assert errors.strip().endswith(b"KeyboardInterrupt")
    assert time.perf_counter() - sent < 5
    assert not worker.is_running()


def loaded_in(parent: subprocess.Popen[bytes]) -> psutil.Process:
    """Return the child of a process that has llama.cpp in it, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert parent.poll() is None, parent.stderr.read().decode()
        for child in psutil.Process(parent.pid).children():
            if "libllama" in maps(child):
                return child
        time.sleep(0.01)
    raise AssertionError("no worker loaded llama.cpp")


def maps(process: psutil.Process) -> str:
    try:
        return Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""
