"""From finished process starts to measurements: a failure stays a row with its error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.bench.llama_bench import parse
from core.bench.results import Arches, Start, keep, kept, measurements, metrics
from core.config import BenchConfig
from core.contract import Origin

CONFIG = BenchConfig(n_prompt=8, n_gen=4)
PI = Arches(device="aarch64", program="aarch64")


def start(number: int, *rates: tuple[int, int, float], cpu_info: str = "CPU", error: str | None = None) -> Start:
    rows = [{"n_prompt": p, "n_gen": n, "samples_ts": [rate], "cpu_info": cpu_info} for p, n, rate in rates]
    parsed = parse("\n".join(map(json.dumps, rows)).encode())
    return Start(quantisation="Q4_0", number=number, rows=tuple(parsed), error=error)


def test_the_samples_of_all_starts_are_one_measurement() -> None:
    found = list(measurements([start(1, (8, 0, 90), (0, 4, 9)), start(2, (8, 0, 94), (0, 4, 11))], CONFIG, 4, PI))
    assert [(m.test, m.samples_tps, m.median_tps) for m in found] == [("pp8", (90, 94), 92), ("tg4", (9, 11), 10)]
    assert metrics(found) == {"pp_tps.Q4_0": 92, "tg_tps.Q4_0": 10}


def test_a_start_that_died_half_way_keeps_its_number_and_shows_its_error() -> None:
    found = list(measurements([start(1, (8, 0, 90), error="signal SIGKILL")], CONFIG, 4, PI))
    assert [(m.test, m.median_tps, m.error) for m in found] == [("pp8", 90, None), ("tg4", None, "signal SIGKILL")]


def test_one_failed_start_of_two_is_a_row_beside_the_measurement() -> None:
    found = list(measurements([start(1, (8, 0, 90), (0, 4, 9)), start(2, error="gone")], CONFIG, 4, PI))
    assert [(m.test, m.error) for m in found] == [("pp8", None), ("pp8", "gone"), ("tg4", None), ("tg4", "gone")]


def test_emulated_speeds_are_stored_and_judged_by_no_gate() -> None:
    mixed = [start(1, (8, 0, 90), (0, 4, 9)), start(2, (8, 0, 90), (0, 4, 9), cpu_info="AMD EPYC")]
    found = list(measurements(mixed, CONFIG, 4, PI))
    assert {m.origin for m in found} == {Origin.EMULATED}
    assert metrics(found) == {}


def test_rows_of_another_test_do_not_count() -> None:
    found = list(measurements([start(1, (512, 0, 90), (0, 4, 9))], CONFIG, 4, PI))
    assert [(m.test, m.error) for m in found] == [("pp8", "llama-bench wrote no whole row of this test"), ("tg4", None)]


@pytest.mark.parametrize("broken", [None, b"", b'{"quantisation": "Q4_0"}'])
def test_a_start_is_taken_over_only_when_it_is_whole(tmp_path: Path, broken: bytes | None) -> None:
    keep(tmp_path, start(1, (8, 0, 90)))
    assert kept(tmp_path, "Q4_0", 1) == start(1, (8, 0, 90))
    assert kept(tmp_path, "Q4_0", 2) is None
    if broken is not None:
        (tmp_path / "01-Q4_0.json").write_bytes(broken)
        assert kept(tmp_path, "Q4_0", 1) is None
