"""NVIDIA GPUs: recorded answers of nvidia-smi, and a driver that is not there or broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.env.gpu import parse_query, read_gpus

TWO = "NVIDIA GeForce RTX 4090, 24564, 23010, 560.35.03, 8.9\nTesla P40, 24576, [N/A], 560.35.03, [N/A]\n"


def put_nvidia_smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_every_gpu_of_the_answer_is_read() -> None:
    first, second = parse_query(TWO)

    assert (first.name, first.memory_total_mib, first.memory_free_mib) == ("NVIDIA GeForce RTX 4090", 24564, 23010)
    assert (first.driver, first.compute_capability) == ("560.35.03", "8.9")
    assert (second.memory_free_mib, second.compute_capability) == (None, None)


@pytest.mark.parametrize("text", ["", "No devices were found\n", "garbage, in, lines\n\n"])
def test_an_answer_without_gpus_names_none(text: str) -> None:
    assert parse_query(text) == ()


def test_a_machine_without_the_driver_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    reading = read_gpus()

    assert reading.gpus == ()
    assert reading.evidence == "nvidia-smi is not installed"


def test_a_driver_that_fails_is_evidence_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed: could not communicate with the driver' >&2; exit 9", monkeypatch)

    reading = read_gpus()

    assert reading.gpus == ()
    assert "could not communicate with the driver" in reading.evidence


def test_an_answer_is_kept_as_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, "echo 'NVIDIA H200, 143771, 143212, 570.86.15, 9.0'", monkeypatch)

    reading = read_gpus()

    assert [gpu.name for gpu in reading.gpus] == ["NVIDIA H200"]
    assert "143771" in reading.evidence
