"""The machine's own benchmark: measured for real and short, kept, put into the database, compared with its history."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest

from core.benchdb.machine_history import compared
from core.benchdb.writer import read_copy, rebuild, write_kept
from core.contract import Origin
from core.env.host import read_host
from core.env.machine_bench import FOLDER, Figure, MachineRun, figures_of, kept_runs, measure, origin_of
from core.env.matmul.reading import Multiplications, Multiplied
from core.env.probe import Reading
from core.workspace import Workspace

TIMEOUT_S = 10.0


def run_of(day: int, value: float | None, origin: Origin = Origin.MEASURED) -> MachineRun:
    figure = Figure(
        test="memory triad",
        device="RAM",
        detail="2 threads",
        unit="GB/s",
        origin=origin,
        value=value,
        error=None if value else "no compiler",
    )
    at = f"2026-01-{day:02}T00:00:00Z"
    return MachineRun.model_validate(
        {"run_id": f"r{day}", "measured_at": at, "host": read_host(), "tools": {"torch": "2"}, "figures": (figure,)}
    )


def keep(workspace: Workspace, *runs: MachineRun) -> None:
    for run in runs:
        path = workspace.root / FOLDER / f"{run.run_id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(run.model_dump_json(), encoding="utf-8")


def test_everything_is_measured_kept_and_stored_with_its_origin(workspace: Workspace, tmp_path: Path) -> None:
    run = measure(workspace, tmp_path / "cache", 0.02)
    write_kept(workspace, TIMEOUT_S)

    tests = {(figure.test, figure.detail.split()[0]) for figure in run.figures if figure.error is None}
    assert {("matmul", "float32"), ("matmul", "bfloat16"), ("memory triad", "1"), ("disk write", "synced")} <= tests
    assert all(figure.value for figure in run.figures if figure.error is None)
    assert kept_runs(workspace) == [run]
    with duckdb.connect(str(read_copy(workspace)), read_only=True) as connection:
        rows = connection.execute("SELECT test, value, origin FROM machine_results").fetchall()
    assert sorted(rows) == sorted((f.test, f.value, f.origin.value) for f in run.figures)
    assert {each.earlier for each in compared(workspace, run)} == {0}


def test_a_run_is_held_against_the_median_of_the_machines_earlier_measured_ones(workspace: Workspace) -> None:
    other = run_of(4, 999.0)
    other = other.model_copy(update={"host": other.host.model_copy(update={"fingerprint": "another"})})
    now = run_of(9, 22.0)
    keep(workspace, run_of(1, 10.0), run_of(2, 20.0), run_of(3, 60.0), other, run_of(5, None), now, run_of(10, 900.0))
    keep(workspace, run_of(6, 500.0, Origin.EMULATED))
    write_kept(workspace, TIMEOUT_S)

    (told,) = compared(workspace, now)

    assert (told.earlier, told.median, told.ratio) == (3, 20.0, pytest.approx(1.1))
    (failed,) = compared(workspace, run_of(8, None))
    assert (failed.ratio, failed.figure.error) == (None, "no compiler")
    (emulated,) = compared(workspace, run_of(8, 5.0, Origin.EMULATED))
    assert emulated.ratio is None


def test_the_database_is_made_again_from_the_kept_runs_and_each_enters_once(workspace: Workspace) -> None:
    keep(workspace, run_of(1, 10.0), run_of(2, 20.0))
    (workspace.root / FOLDER / "broken.json").write_text("{", encoding="utf-8")
    for write in (write_kept, write_kept, rebuild):
        write(workspace, TIMEOUT_S)
        with duckdb.connect(str(read_copy(workspace)), read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM machine_results").fetchall() == [(2,)]


def test_a_probe_that_failed_is_a_figure_with_its_error_and_no_number() -> None:
    dead = Reading(name="x", value=None, error="signal SIGSEGV", seconds=1.0)

    figures = figures_of({"matmul": dead, "speed-1": dead, "speed-4": dead}, Origin.MEASURED, 4)

    assert {figure.value for figure in figures} == {None}
    assert {figure.error for figure in figures} == {"signal SIGSEGV"}
    assert [figure.test for figure in figures].count("disk write") == 1


def test_a_dtype_a_device_cannot_do_is_told_beside_those_it_can() -> None:
    told = Multiplications(
        torch="2",
        results=(
            Multiplied(
                device="cpu",
                dtype="float16",
                size=256,
                repetitions=0,
                best_tflops=None,
                median_tflops=None,
                error="not implemented for 'Half'",
            ),
        ),
    )
    reading = Reading(name="matmul", value=json.loads(told.model_dump_json()), error=None, seconds=1.0)
    dead = Reading(name="x", value=None, error="gone", seconds=1.0)

    figure = figures_of({"matmul": reading, "speed-1": dead}, Origin.MEASURED, 1)[0]

    assert (figure.detail, figure.error) == ("float16 256", "not implemented for 'Half'")


def test_an_emulators_numbers_are_not_called_measured() -> None:
    here = read_host()

    assert origin_of(here) is Origin.MEASURED
    assert origin_of(here.model_copy(update={"cpu_model": "QEMU TCG CPU version 2.5+"})) is Origin.EMULATED
