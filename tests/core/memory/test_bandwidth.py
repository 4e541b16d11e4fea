"""Memory bandwidth: compiled and run for real, and its parser on anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ProcessFailed, ToolMissing
from core.memory.bandwidth import array_bytes, measure, parse

PRINTED = "copy 2 134217728 23 69.561390 23.233656\ntriad 2 134217728 16 61.681867 27.594518\n"


def test_the_program_is_compiled_once_and_measures_a_plausible_bandwidth(tmp_path: Path) -> None:
    first = measure(tmp_path, 1, 0.1)
    (program,) = tmp_path.glob("bandwidth/*/bandwidth")
    made = program.stat().st_mtime_ns
    second = measure(tmp_path, 2, 0.1, available_bytes=1 << 30)

    assert program.stat().st_mtime_ns == made
    assert [path.name for path in program.parent.iterdir()] == ["bandwidth"]
    for reading in (first, second):
        assert 0.1 < reading.triad.median_gbs <= reading.triad.best_gbs < 2000
        assert 0.1 < reading.copied.median_gbs <= reading.copied.best_gbs < 2000
    assert (first.threads, second.threads) == (1, 2)
    assert second.array_bytes <= (1 << 30) // 24


def test_what_it_prints_is_parsed() -> None:
    reading = parse(PRINTED, "cc 12")

    assert (reading.threads, reading.array_bytes, reading.compiler) == (2, 134217728, "cc 12")
    assert reading.triad.best_gbs == 61.681867
    assert reading.copied.repetitions == 23


@given(st.text())
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ProcessFailed, match="a line for copy and one for triad"):
        parse(text, "cc")


@pytest.mark.parametrize("line", ["copy 2 8 0 1.0 1.0", "copy 2 8 1 0.0 0.0", "", "copy 2 8 1 inf inf"])
def test_a_number_that_cannot_be_is_refused(line: str) -> None:
    with pytest.raises(ProcessFailed):
        parse(f"{line}\ntriad 2 8 1 1.0 1.0\n", "cc")


def test_arrays_are_larger_than_the_caches_but_leave_the_memory_free() -> None:
    assert array_bytes(0, None) == 64 << 20
    assert array_bytes(256 << 20, None) == 1 << 30
    assert array_bytes(256 << 20, 1 << 30) == (1 << 30) // 24
    assert array_bytes(0, 0) == 1 << 20


def test_a_missing_compiler_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ToolMissing, match="needs cc") as caught:
        measure(tmp_path, 1, 0.1)
    assert "apt-get install" in caught.value.remedy


def test_a_compiler_that_refuses_the_source_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo 'cc 1' && exit\necho 'bad flag' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(ProcessFailed, match="bad flag"):
        measure(tmp_path / "cache", 1, 0.1)
