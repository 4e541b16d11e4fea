"""What the doctor costs: a look at the whole machine, and a stage that finds a young report; each with a broken variant."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pytest

from core import config
from core.env.check import check
from core.workspace import Workspace, open_workspace
from tests.benchmarks.meter import edgekiln, measure, reached

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
Record = Callable[[str, object], None]

LOOK_S = 15.0  # without a GPU
CACHED_S = 0.3


def test_a_look_at_the_whole_machine(
    toolchain: object, default_gguf: Path, tmp_path: Path, record_property: Record
) -> None:
    def look(*arguments: str) -> float:
        command = edgekiln("env", "--no-cache", "--profile", "demo", "--workspace", str(tmp_path / "workspace"), *arguments)
        measured = measure(command, tmp_path / "out")
        assert measured.status == 0, measured.stderr
        return measured.seconds

    seconds = median(look() for _ in range(3))
    record_property(f"edgekiln env --no-cache, median of 3 [s], limit {LOOK_S:g}", round(seconds, 1))
    assert reached("look_s", seconds, LOOK_S)
    broken = look("--set", "env.measure_s=10")
    record_property("broken on purpose: memory and disk are measured for 10 s each [s]", round(broken, 1))
    assert not reached("look_s", broken, LOOK_S)


def test_a_stage_that_finds_a_young_report(toolchain: object, tmp_path: Path, record_property: Record) -> None:
    workspace = open_workspace(tmp_path / "workspace")

    def stage(*overrides: str) -> float:
        return _seconds(workspace, tmp_path, *overrides)

    stage()
    seconds = median(stage() for _ in range(5))
    record_property(f"the env stage where a report is there, median of 5 [s], limit {CACHED_S:g}", round(seconds, 3))
    assert reached("cached_s", seconds, CACHED_S)
    broken = stage("env.max_age_s=0")
    record_property("broken on purpose: no report is young enough [s]", round(broken, 1))
    assert not reached("cached_s", broken, CACHED_S)


def _seconds(workspace: Workspace, beside: Path, *overrides: str) -> float:
    profile = config.load("demo", overrides)
    began = time.perf_counter()
    check(profile, workspace, beside)
    return time.perf_counter() - began
