"""A board as a device, over the system's ssh and sftp programs with the user's whole OpenSSH configuration.

What runs on the board is in board.py.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core import process
from core.bench import board
from core.bench.device import BenchTool, Job
from core.bench.guard import guarded
from core.catalogue import DeviceCard
from core.contract import Stage
from core.errors import BoardUnreachable, ProcessFailed, ToolMissing
from core.events import Note, OnEvent, Progress
from core.nouns import HostFacts, MemoryFacts
from core.telemetry import append_samples

_SHORT_S = 60.0
_UPLOAD_S = 4 * 3600.0
# No prompt may ever wait for an answer, and a dead link ends after three missed replies instead of never.
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15")


class SshDevice:
    """Runs the board's own llama-bench on a model that is uploaded once."""

    def __init__(self, card: DeviceCard, on_event: OnEvent) -> None:
        self._card = card
        self._host = str(card.host)  # a card of kind ssh always names one
        self._on_event = on_event
        self._told = self._script(board.FACTS)

    def facts(self) -> HostFacts:
        """Return what the board is."""
        return board.host_facts(self._told)

    def memory(self) -> MemoryFacts:
        """Return what the board's memory is, as far as it is told."""
        return board.memory_facts(self._told)

    def tool(self) -> BenchTool:
        """Return the board's llama-bench; ToolMissing when it has none."""
        try:
            return board.bench_tool(self._script(board.TOOL, self._card.llama_bench))
        except ProcessFailed as error:
            if "status 127" not in error.problem:
                raise
            raise ToolMissing(
                f"{self._card.llama_bench} is not on {self._host}",
                remedy=f"Build llama.cpp there and set llama_bench in devices/{self._card.name}.yaml to its path.",
            ) from error

    def measure(self, job: Job) -> None:
        """Upload the model unless it is there, run llama-bench under the board's watcher, fetch what it wrote."""
        model = self._upload(job.gguf, job.sha256)
        name = f"run-{job.sha256[:12]}-{time.time_ns()}"
        words = [self._card.folder, name, str(int(job.timeout_s) + 1), self._card.llama_bench, *job.arguments(model)]
        try:
            with self._board_errors():
                process.run(
                    guarded(self._ssh(board.MEASURE, *words)),
                    log=job.log,
                    timeout_s=2 * job.timeout_s + _SHORT_S,  # the board may first wait for its lock
                    env={"EDGEKILN_PARENT": str(os.getpid())},
                )
        except ProcessFailed:
            self._fetch(name, job)
            raise
        self._fetch(name, job)

    def _upload(self, gguf: Path, sha256: str) -> str:
        name = f"{gguf.stem}-{sha256[:16]}.gguf"
        folder = self._card.folder
        if self._script(board.HAVE, folder, name).split()[:1] == [sha256]:
            return f"{folder}/{name}"
        part = f"{name}.part-{os.getpid()}"
        mib = gguf.stat().st_size / (1 << 20)
        task = f"upload {gguf.name} to {self._host}"
        self._on_event(Progress(stage=Stage.BENCH, task=task, done=0, total=mib, unit="MiB"))
        self._sftp(f"put {_quoted(str(gguf))} {_quoted(f'{folder}/{part}')}")
        self._keep(part, name, sha256)
        self._on_event(Progress(stage=Stage.BENCH, task=task, done=mib, total=mib, unit="MiB"))
        return f"{folder}/{name}"

    def _keep(self, part: str, name: str, sha256: str) -> None:
        try:
            self._script(board.PUT, self._card.folder, part, name, sha256, timeout_s=_UPLOAD_S)
        except ProcessFailed as error:
            if "ended with status 65" not in error.problem:
                raise
            raise BoardUnreachable(
                f"device {self._card.name}: the uploaded {name} has not sha256 {sha256[:12]}",
                remedy=f"Check the free space and the storage of {self._host}, then run the same command again.",
            ) from error

    def _fetch(self, name: str, job: Job) -> None:
        """Take a run's files over and remove them there."""
        remote = f"{self._card.folder}/{name}"
        with tempfile.TemporaryDirectory(dir=job.output.parent) as scratch:
            watched = Path(scratch) / "telemetry"
            gets = [f"-get {_quoted(f'{remote}.jsonl')} {_quoted(str(job.output))}"]
            gets.append(f"-get {_quoted(f'{remote}.telemetry')} {_quoted(str(watched))}")
            removes = [f"-rm {_quoted(f'{remote}.{suffix}')}" for suffix in ("jsonl", "telemetry", "log")]
            self._sftp(*gets, *removes)
            text = watched.read_text(encoding="utf-8", errors="replace") if watched.is_file() else ""
        if not text:
            self._on_event(Note(stage=Stage.BENCH, text=f"{self._host} sent no telemetry", level="warning"))
        append_samples(job.telemetry, board.samples(text))

    def _ssh(self, script: str, *words: str) -> list[str]:
        return ["ssh", "-n", *_OPTIONS, "--", self._host, shlex.join(["sh", "-c", script, "sh", *words])]

    def _script(self, script: str, *words: str, timeout_s: float = _SHORT_S) -> str:
        with self._board_errors():
            return process.capture(self._ssh(script, *words), timeout_s=timeout_s)

    def _sftp(self, *commands: str) -> None:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".sftp") as batch:
            batch.write("\n".join(commands) + "\n")
            batch.flush()
            with self._board_errors():
                process.capture(["sftp", "-q", *_OPTIONS, "-b", batch.name, "--", self._host], timeout_s=_UPLOAD_S)

    @contextmanager
    def _board_errors(self) -> Iterator[None]:
        """Turn a missing client into ToolMissing with a package, a failed connection into BoardUnreachable."""
        try:
            yield
        except ToolMissing as error:
            remedy = "Install the OpenSSH client (Debian, Ubuntu: sudo apt install openssh-client) and run again."
            raise ToolMissing(error.problem, remedy=remedy) from error
        except ProcessFailed as error:
            # 255 is ssh's and sftp's own status for a connection that failed: ssh(1), EXIT STATUS
            if "ended with status 255" not in error.problem and " ran > " not in error.problem:
                raise
            raise BoardUnreachable(
                f"device {self._card.name}: {error.problem}",
                remedy=f"Try `ssh -o BatchMode=yes {self._host} true`: it must work without a question.",
            ) from error


def _quoted(path: str) -> str:
    """Quote a path for an sftp batch: sftp(1) takes double quotes with backslash escapes."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
