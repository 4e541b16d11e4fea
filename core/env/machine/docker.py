"""The Docker engine and its NVIDIA runtime, when the program is there: asked by `docker info` in its JSON form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from core.contract import Confidence, Contract, Finding, Severity
from core.errors import ProcessFailed, ToolMissing
from core.process import capture

_PROGRAM = "docker"
_DRIVER = Path("/proc/driver/nvidia/version")


class Docker(Contract):
    """The engine: `program` None when there is no Docker, `version` None when its engine does not answer, then `error`."""

    program: str | None
    version: str | None
    runtimes: tuple[str, ...]
    error: str | None
    nvidia_driver: bool = False


def read(argument: dict[str, Any]) -> Docker:
    """Ask the engine within `timeout_s`."""
    return _ask(argument["timeout_s"]).model_copy(update={"nvidia_driver": _DRIVER.exists()})


def _ask(timeout_s: float) -> Docker:
    program = shutil.which(_PROGRAM)
    if program is None:
        return Docker(program=None, version=None, runtimes=(), error=None)
    try:
        text = capture([program, "info", "--format", "{{json .}}"], timeout_s=timeout_s)
    except (ProcessFailed, ToolMissing) as error:
        return Docker(program=program, version=None, runtimes=(), error=" ".join(error.problem.split())[:300])
    return parse(program, text)


def parse(program: str, text: str) -> Docker:
    """Parse what `docker info` printed; garbage is an engine that does not answer."""
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return Docker(program=program, version=None, runtimes=(), error=f"docker info printed {text[:80]!r}")
    runtimes = told.get("Runtimes")
    errors = told.get("ServerErrors")
    return Docker(
        program=program,
        version=str(told["ServerVersion"]) if told.get("ServerVersion") else None,
        runtimes=tuple(sorted(runtimes)) if isinstance(runtimes, dict) else (),
        error="; ".join(map(str, errors)) if isinstance(errors, list) and errors else None,
    )


def docker_findings(found: Docker) -> list[Finding]:
    """Tell what a job in a container would lack; a machine without Docker lacks nothing."""
    if found.program is None:
        return []
    if found.version is None:
        return [
            Finding(
                code="docker",
                severity=Severity.INFO,
                where=found.program,
                evidence=f"its engine does not answer: {found.error or 'it told no version'}",
                cause="the engine is not started, or this user may not use it",
                confidence=Confidence.MEDIUM,
                remedy="Only a job in a container needs it: sudo systemctl start docker",
                remedy_argv=("sudo", "systemctl", "start", "docker"),
                verify_argv=("docker", "info"),
            )
        ]
    if not found.nvidia_driver or "nvidia" in found.runtimes:
        return []
    return [
        Finding(
            code="docker",
            severity=Severity.WARNING,
            where=found.program,
            evidence=f"its runtimes are {', '.join(found.runtimes) or 'none'}, and there is an NVIDIA GPU",
            cause="the NVIDIA container toolkit is not installed or not registered",
            confidence=Confidence.HIGH,
            remedy="Install nvidia-container-toolkit, then: sudo nvidia-ctk runtime configure --runtime=docker",
            remedy_argv=("sudo", "nvidia-ctk", "runtime", "configure", "--runtime=docker"),
            verify_argv=("docker", "info"),
        )
    ]
