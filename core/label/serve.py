"""llama-server on the configured teacher, for people without an endpoint. `python -m core.label.serve PROGRAM ...` is its side."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from core import catalogue, models, toolchain
from core.config import LabelConfig, cache_folder, patient_openmp, secret
from core.contract import Contract
from core.errors import BadConfig, ProcessFailed, UsageError
from core.events import OnEvent
from core.label.endpoint import served_name
from core.package_index import heartbeat
from core.process import beside, python_module
from core.worker_process import die_with_parent

_READY_TIMEOUT_S = 900.0  # a large file from a slow disk
_ASK_TIMEOUT_S = 2.0
_POLL_S = 0.1
_TAIL_LINES = 3
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a person may ask for, and where it is then asked

Poll = Callable[[], int | None]


class ServerPlan(Contract):
    """Where a server listens, port 0 for any; `slots` requests at once, each of `context` tokens."""

    host: str
    port: int
    slots: int
    context: int


class Served(Contract):
    """A server that is ready; `settings` make a profile use it."""

    base_url: str
    model: str
    slots: int
    context: int
    pid: int
    log: str
    settings: tuple[str, ...]


def serve(
    config: LabelConfig, plan: ServerPlan, on_event: OnEvent, on_ready: Callable[[Served], None], near: Path | None
) -> None:
    """Serve the teacher until an interrupt; the server ends with this process, whatever ends it.

    `near` is the folder of the profile. BadConfig for a teacher without a GGUF, UsageError for an address that cannot be
    had, ProcessFailed when the server ends by itself.
    """
    card = catalogue.model(config.teacher, near)
    gguf = models.fetch(card, on_event)
    if not gguf.is_file():
        raise BadConfig(
            f"label.teacher={card.name} is a Hugging Face folder, no GGUF file",
            remedy="Name a teacher whose card leads to a GGUF file, or serve that folder with vLLM.",
        )
    key = {"LLAMA_API_KEY": secret(config.api_key_env)} if config.api_key_env else {}
    program = toolchain.ensure(on_event).program("llama-server")
    plan = plan.model_copy(update={"port": _free_port(plan)})
    log = cache_folder() / "logs" / "llama-server.log"
    log.unlink(missing_ok=True)
    argv = python_module("core.label.serve", *_command(program, gguf, served_name(card), plan))
    with ExitStack() as held:
        with patient_openmp():
            child = held.enter_context(beside(argv, log=log, env={**key, "EDGEKILN_PARENT": str(os.getpid())}))
        _wait_until_ready(plan, child.poll, log, on_event)
        on_ready(_served(config, plan, served_name(card), child.pid, log))
        while child.poll() is None:
            time.sleep(_POLL_S)
        raise _ended(child.poll(), log)


def _command(program: Path, gguf: Path, name: str, plan: ServerPlan) -> list[str]:
    where = ("--alias", name, "--host", plan.host, "--port", str(plan.port))
    room = ("--parallel", str(plan.slots), "--ctx-size", str(plan.slots * plan.context), "--no-kv-unified")
    # beside the slots it would keep up to 8 GiB of earlier prompts
    return [str(program), "--model", str(gguf), *where, *room, "--cont-batching", "--cache-ram", "0"]


def _free_port(plan: ServerPlan) -> int:
    """Return the port, or one that is free for port 0."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(plan.host, plan.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"--host {plan.host} --port {plan.port}: {told}", remedy="Name another; --port 0 takes any that is free."
        ) from error


def _wait_until_ready(plan: ServerPlan, poll: Poll, log: Path, on_event: OnEvent) -> None:
    url = f"{_address(_WILDCARDS.get(plan.host, plan.host), plan.port)}/health"
    tick = heartbeat("loading the teacher", on_event)
    deadline = time.perf_counter() + _READY_TIMEOUT_S
    while not _is_healthy(url):
        if (status := poll()) is not None:
            raise _ended(status, log)
        if time.perf_counter() > deadline:
            raise ProcessFailed(f"llama-server was not ready within {_READY_TIMEOUT_S:g} s", remedy=f"Read {log}.")
        tick()
        time.sleep(_POLL_S)


def _is_healthy(url: str) -> bool:
    try:
        with urlopen(url, timeout=_ASK_TIMEOUT_S) as answer:  # noqa: S310 - the server started here
            return bool(answer.status == 200)
    except (OSError, HTTPException):
        return False


def _ended(status: int | None, log: Path) -> ProcessFailed:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_TAIL_LINES:]
    return ProcessFailed(
        f"llama-server ended with status {status}: {' | '.join(lines)}",
        remedy=f"Read {log}, mend what it names, run again.",
    )


def _served(config: LabelConfig, plan: ServerPlan, model: str, pid: int, log: Path) -> Served:
    host = socket.gethostname() if plan.host in _WILDCARDS else plan.host
    base_url = f"{_address(host, plan.port)}/v1"
    settings = ["label.backend=openai", f"label.base_url={base_url}", f"label.concurrency={plan.slots}"]
    settings += [f"label.api_key_env={config.api_key_env}"] if config.api_key_env else []
    return Served(
        base_url=base_url,
        model=model,
        slots=plan.slots,
        context=plan.context,
        pid=pid,
        log=str(log),
        settings=tuple(settings),
    )


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def main() -> None:
    """Become the program named by the arguments, which ends when its parent does."""
    die_with_parent()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - the process that core/process.py started goes on as the program


if __name__ == "__main__":
    main()
