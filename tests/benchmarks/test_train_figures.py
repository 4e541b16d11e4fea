"""The train worker with every guard on beside plain TRL + PEFT: speed and peak memory in pairs of one run, and the losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core import catalogue
from core.contract import Limit, judge
from core.train import student
from tests.benchmarks.meter import ROOT

pytestmark = [pytest.mark.full, pytest.mark.model, pytest.mark.timeout(2400)]
Record = Callable[[str, object], None]

PAIRS = 5
SPEED, MEMORY, LOSS = 0.98, 1.02, 1e-4
LIMITS = (
    Limit(metric="tokens_per_s", op=">=", value=SPEED),
    Limit(metric="peak_memory", op="<=", value=MEMORY),
    Limit(metric="furthest_loss", op="<=", value=LOSS),
)


@pytest.fixture(scope="module")
def smollm_folder(toolchain: object) -> Path:
    return student.folder(catalogue.model("smollm2-135m-instruct"))


def test_every_guard_costs_next_to_nothing(smollm_folder: Path, tmp_path: Path, record_property: Record) -> None:
    argv = [sys.executable, "-m", "tests.benchmarks.train_speed", str(tmp_path / "figures.json")]
    argv += ["--student", str(smollm_folder), "--pairs", str(PAIRS)]
    # threads that wait asleep: those that spin make both ways slow where anything runs beside them
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(argv, cwd=ROOT, check=True, env=environment)
    told = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    guarded, broken = told["guarded"], told["broken"]
    record_property(
        f"training beside plain TRL + PEFT that saves as often, median of {PAIRS} pairs, tokens/s, limit {SPEED}",
        round(guarded["tokens_per_s"], 4),
    )
    record_property(f"the same, peak memory, limit {MEMORY}", round(guarded["peak_memory"], 4))
    record_property(f"the same, the step whose loss differs most, limit {LOSS}", f"{guarded['furthest_loss']:.1e}")
    record_property(
        "the same, whole turns, computing that is alike in both not set equal", round(guarded["whole_turns"], 4)
    )
    record_property("the same beside one that never saves, tokens/s", round(told["unsaved"]["tokens_per_s"], 4))
    assert judge(LIMITS, guarded).passed
    record_property(
        "broken on purpose: a checkpoint and a copy of the weights at every step, tokens/s",
        round(broken["tokens_per_s"], 4),
    )
    record_property("broken on purpose: the same, peak memory", round(broken["peak_memory"], 4))
    missed = {failure.limit.metric for failure in judge(LIMITS, broken).failures}
    assert {"tokens_per_s", "peak_memory"} <= missed
