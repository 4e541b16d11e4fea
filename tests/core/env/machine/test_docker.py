"""Docker: recorded answers of `docker info`, and programs that fail, hang or print garbage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.contract import Severity
from core.env.machine.docker import Docker, docker_findings, parse, read

INFO = {"ServerVersion": "27.3.1", "Runtimes": {"runc": {}, "io.containerd.runc.v2": {}, "nvidia": {}}}


def put_docker(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_an_engine_tells_version_and_runtimes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_docker(tmp_path, f"echo '{json.dumps(INFO)}'", monkeypatch)

    found = read({"timeout_s": 5.0})

    assert found.version == "27.3.1"
    assert "nvidia" in found.runtimes
    assert docker_findings(found.model_copy(update={"nvidia_driver": True})) == []


@pytest.mark.parametrize(
    ("script", "evidence"),
    [
        ("echo 'Cannot connect to the Docker daemon' >&2; exit 1", "Cannot connect"),
        ("echo '<garbage>'", "printed"),
        ("sleep 30", "ran > 1 s"),
        ('echo \'{"ServerErrors": ["permission denied"]}\'', "permission denied"),
    ],
)
def test_an_engine_that_does_not_answer_is_only_worth_knowing(
    script: str, evidence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_docker(tmp_path, script, monkeypatch)

    (finding,) = docker_findings(read({"timeout_s": 1.0}))

    assert finding.severity is Severity.INFO
    assert evidence in finding.evidence


def test_a_gpu_without_the_container_runtime_is_a_warning() -> None:
    found = Docker(program="/d", version="27", runtimes=("runc",), error=None, nvidia_driver=True)

    (finding,) = docker_findings(found)

    assert finding.severity is Severity.WARNING
    assert "nvidia-ctk" in finding.remedy
    assert docker_findings(found.model_copy(update={"nvidia_driver": False})) == []


def test_a_machine_without_docker_lacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert docker_findings(read({"timeout_s": 1.0})) == []


@given(st.text())
def test_any_output_is_an_answer(text: str) -> None:
    assert parse("docker", text).program == "docker"
