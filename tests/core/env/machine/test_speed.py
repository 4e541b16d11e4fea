"""The doctor's measurements, made for real and short, and what stands in for one that cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.env.machine import programs, speed
from core.env.machine.speed import bandwidth_findings

ASK = {"threads": 1, "seconds": 0.05, "most_bytes": 8 << 20}


def test_memory_and_disk_are_measured(tmp_path: Path) -> None:
    found = speed.read({**ASK, "cache": str(tmp_path / "cache"), "folder": str(tmp_path)})

    assert found.bandwidth is not None
    assert found.written is not None
    assert bandwidth_findings(found.bandwidth, 0.001) == []
    (finding,) = bandwidth_findings(found.bandwidth, 1e6)
    assert "< env.min_memory_gbs 1e+06" in finding.evidence


def test_without_a_compiler_or_a_place_the_reason_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))

    found = speed.read({**ASK, "cache": str(tmp_path), "folder": str(tmp_path / "file")})

    assert (found.bandwidth, found.written) == (None, None)
    assert "needs cc" in (found.bandwidth_error or "")
    assert found.written_error == "File exists"


def test_a_cache_that_cannot_hold_the_program_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    found = speed.read({**ASK, "cache": str(tmp_path / "file"), "folder": str(tmp_path)})

    assert "Not a directory" in (found.bandwidth_error or "")


def test_a_missing_compiler_set_is_named_when_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "empty"))
    whole = programs.read({})
    monkeypatch.setenv("PATH", str(tmp_path))

    (finding,) = programs.programs_findings(programs.read({}))

    assert "cmake" in finding.evidence
    assert "install" in finding.remedy
    assert programs.programs_findings(whole) == []
