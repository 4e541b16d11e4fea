"""A published GGUF model of two files, both the default model, and a real SSH server that plays the board."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from core.config import ExportConfig
from core.contract import Stage
from core.events import ignore
from core.nouns import GgufModel, ModelRef, Quantisation
from core.stage import Facts, Order, produce
from core.workspace import Workspace

TYPES = ("Q8_0", "Q4_0")


@pytest.fixture
def publish_model(workspace: Workspace) -> Callable[[bytes | Path], GgufModel]:
    """Publish the same bytes under two quantisation names."""

    def publish(gguf: bytes | Path) -> GgufModel:
        def work(content: Path) -> Facts:
            for kind in TYPES:
                target = content / f"student-{kind}.gguf"
                if isinstance(gguf, bytes):
                    target.write_bytes(gguf)
                else:
                    shutil.copyfile(gguf, target)
            student = ModelRef(name="student", identity="0" * 64, parameters=1, licence="MIT")
            own = {"student": student, "reference_held_out_loss": 1.0, "rejected": ()}
            return Facts(own={**own, "quantisations": tuple(_quantisation(content, kind) for kind in TYPES)})

        order = Order(noun=GgufModel, stage=Stage.EXPORT, version=1, config=ExportConfig(quantisations=TYPES))
        return produce(order, workspace, ignore, work)

    return publish


def _quantisation(content: Path, kind: str) -> Quantisation:
    path = content / f"student-{kind}.gguf"
    return Quantisation(
        type=kind,
        path=path.name,
        bytes=path.stat().st_size,
        bits_per_weight=8.5,
        fallback_tensors=0,
        held_out_loss=1.0,
        sample="",
    )


@dataclass
class Board:
    """The server's side: the login folder, programs before the system's, and the measurement that loses its connection."""

    home: Path
    port: int
    config: Path
    bin: Path
    drop_measurement: int = 0
    measurements: int = 0


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """Start an SSH and SFTP server on 127.0.0.1 and put the system's clients, told of it by -F, first on PATH."""
    for program in ("ssh", "sftp"):
        if shutil.which(program) is None:
            pytest.skip(f"the OpenSSH client is not installed ({program}); Debian: openssh-client")
    folder = tmp_path / "ssh"
    home, programs = folder / "home", folder / "board-bin"
    home.mkdir(parents=True)
    programs.mkdir()
    board = Board(home=home, port=0, config=folder / "config", bin=programs)
    host_key, user_key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    user_key.write_private_key(folder / "id")
    (folder / "id").chmod(0o600)
    user_key.write_public_key(folder / "authorized_keys")
    with _serving(board, host_key, folder / "authorized_keys"):
        public = host_key.export_public_key().decode().strip()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{board.port} {public}\n")
        board.config.write_text(
            f"Host pi\n HostName 127.0.0.1\n Port {board.port}\n User pi\n IdentityFile {folder / 'id'}\n"
            f" IdentitiesOnly yes\n UserKnownHostsFile {folder / 'known_hosts'}\n StrictHostKeyChecking yes\n"
        )
        _clients(folder / "client-bin", board.config, monkeypatch)
        yield board


def _clients(folder: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand before ssh and sftp: both look for their configuration in the account's folder, not in HOME."""
    folder.mkdir()
    for program in ("ssh", "sftp"):
        (folder / program).write_text(f'#!/bin/sh\nexec {shutil.which(program)} -F {config} "$@"\n')
        (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


class _serving:  # noqa: N801 - reads as a verb
    def __init__(self, board: Board, host_key: asyncssh.SSHKey, authorized: Path) -> None:
        self._board, self._host_key, self._authorized = board, host_key, authorized
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(20)
        self._board.port = self._server.get_port()

    async def _listen(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[self._host_key],
            authorized_client_keys=str(self._authorized),
            process_factory=self._run,
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=os.fsencode(self._board.home)),
            encoding=None,
        )

    async def _run(self, process: asyncssh.SSHServerProcess) -> None:
        if "llama-bench" in process.command and "flock" in process.command:
            self._board.measurements += 1
            if self._board.measurements == self._board.drop_measurement:
                process.channel.get_connection().abort()
                return
        environment = {**os.environ, "HOME": str(self._board.home), "PATH": f"{self._board.bin}:{os.environ['PATH']}"}
        child = await asyncio.create_subprocess_shell(
            process.command,
            cwd=self._board.home,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await child.communicate()
        process.stdout.write(out)
        process.stderr.write(err)
        process.exit(child.returncode)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        await self._server.wait_closed()
