"""The bench stage on this machine, with the real llama-bench: measured, kept through kills, reused, judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.bench.bench import bench
from core.config import BenchConfig
from core.contract import Limit, Origin, Stage
from core.errors import BadConfig, ProcessFailed
from core.events import Event, Note, Progress, Resumed, StageReused
from core.files import read_json_lines
from core.nouns import BenchmarkRun, GgufModel
from core.workspace import Workspace, load

# one thread: a second one would wait at every barrier while other tests use the cores
SMALL = BenchConfig(n_prompt=16, n_gen=4, repetitions=2, process_starts=2, threads=1)

CHILD = """
import sys
from pathlib import Path
from core.bench.bench import bench
from core.config import BenchConfig
from core.contract import Stage
from core.nouns import GgufModel
from core.workspace import load, open_workspace
workspace = open_workspace(Path(sys.argv[1]))
bench(load(workspace, Stage.EXPORT, sys.argv[2], GgufModel), BenchConfig.model_validate_json(sys.argv[3]), workspace)
"""


@pytest.mark.model
def test_every_quantisation_is_measured_and_everything_is_told(
    workspace: Workspace, publish_model: Callable[[Path], GgufModel], default_gguf: Path, events: list[Event]
) -> None:
    model = publish_model(default_gguf)
    limits = (Limit(metric="tg_tps.Q8_0", op=">", value=0.1), Limit(metric="tg_tps.Q2_K", op=">", value=0.1))
    config = SMALL.model_copy(update={"limits": limits})
    run = bench(model, config, workspace, events.append)
    assert [(m.quantisation, m.test) for m in run.measurements] == [
        ("Q8_0", "pp16"),
        ("Q8_0", "tg4"),
        ("Q4_0", "pp16"),
        ("Q4_0", "tg4"),
    ]
    for measurement in run.measurements:
        assert len(measurement.samples_tps) == 4  # two starts of two repetitions
        assert measurement.origin is Origin.MEASURED
        assert min(measurement.samples_tps) <= measurement.median_tps <= max(measurement.samples_tps)
        assert len(measurement.raw) == 2
    assert set(run.metrics) == {"pp_tps.Q8_0", "tg_tps.Q8_0", "pp_tps.Q4_0", "tg_tps.Q4_0"}
    assert [failure.limit.metric for failure in run.verdict.failures] == ["tg_tps.Q2_K"]
    assert run.telemetry.samples >= 8
    assert run.device_memory == run.host_memory
    files = {ref.path: ref.carries_meaning for ref in run.files}
    assert files == {"measurements.jsonl": True, "telemetry.jsonl": False}
    rows = list(read_json_lines(workspace.folder(Stage.BENCH, run.artifact_id) / "measurements.jsonl"))
    assert rows == [json.loads(m.model_dump_json()) for m in run.measurements]
    assert [event.done for event in events if isinstance(event, Progress)] == [0, 1, 2, 3, 4]
    assert load(workspace, Stage.BENCH, run.artifact_id, BenchmarkRun) == run
    _turns_are_interleaved(run)

    again = bench(model, SMALL, workspace, events.append)
    assert again.artifact_id == run.artifact_id
    assert again.verdict.passed  # judged anew, without the limits
    assert isinstance(events[-1], StageReused)

    forced = bench(model, SMALL, Workspace(workspace.root, frozenset({Stage.BENCH})), events.append)
    assert forced.artifact_id != run.artifact_id
    assert forced.identity == run.identity


def _turns_are_interleaved(run: BenchmarkRun) -> None:
    times = {(m.quantisation, start): row["test_time"] for m in run.measurements for start, row in enumerate(m.raw)}
    assert times["Q8_0", 0] <= times["Q4_0", 0] <= times["Q8_0", 1] <= times["Q4_0", 1]


@pytest.mark.model
@pytest.mark.parametrize("finished", [1, 3])
def test_a_killed_benchmark_goes_on_with_the_measurements_it_lacks(
    workspace: Workspace,
    publish_model: Callable[[Path], GgufModel],
    default_gguf: Path,
    events: list[Event],
    finished: int,
) -> None:
    model = publish_model(default_gguf)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(workspace.root), model.artifact_id, SMALL.model_dump_json()])
    kept = _wait_for_finished(workspace, finished, child)
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    _no_llama_bench_is_left(workspace)

    run = bench(model, SMALL, workspace, events.append)
    (resumed,) = (event for event in events if isinstance(event, Resumed))
    assert finished <= resumed.done < 4
    raw = [json.dumps(row, sort_keys=True) for m in run.measurements for row in m.raw]
    assert len(raw) == 8
    for text in kept:
        for row in json.loads(text)["rows"]:
            assert json.dumps(row["raw"], sort_keys=True) in raw
    assert list((workspace.root / "staging").iterdir()) == []


def _wait_for_finished(workspace: Workspace, count: int, child: subprocess.Popen[bytes]) -> list[str]:
    deadline = time.perf_counter() + 60
    while time.perf_counter() < deadline and child.poll() is None:
        files = list(workspace.root.glob("staging/bench-*/finished/0*.json"))
        if len(files) >= count:
            return [path.read_text() for path in files]
        time.sleep(0.005)
    raise AssertionError(f"the benchmark ended with {child.poll()} before {count} starts were finished")


def _no_llama_bench_is_left(workspace: Workspace) -> None:
    deadline = time.perf_counter() + 5
    while left := _processes_on(workspace):
        assert time.perf_counter() < deadline, left
        time.sleep(0.02)


def _processes_on(workspace: Workspace) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(workspace.root) in words and b"llama-bench" in words:
            found.append(folder.name)
    return found


@pytest.mark.model
def test_a_file_that_llama_bench_cannot_load_is_an_error_not_a_number(
    workspace: Workspace, publish_model: Callable[[Path], GgufModel], default_gguf: Path, events: list[Event]
) -> None:
    model = publish_model(default_gguf)
    (workspace.folder(Stage.EXPORT, model.artifact_id) / "student-Q4_0.gguf").write_bytes(b"GGUF, but not really")
    config = SMALL.model_copy(update={"process_starts": 1, "limits": (Limit(metric="tg_tps.Q4_0", op=">", value=0),)})
    run = bench(model, config, workspace, events.append)
    failed = [m for m in run.measurements if m.error]
    assert [(m.quantisation, m.test, m.samples_tps, m.median_tps) for m in failed] == [
        ("Q4_0", "pp16", (), None),
        ("Q4_0", "tg4", (), None),
    ]
    assert "llama-bench" in (failed[0].error or "") or "load" in (failed[0].error or "")
    assert "tg_tps.Q4_0" not in run.metrics
    assert not run.verdict.passed
    (told,) = (event for event in events if isinstance(event, Note) and "Q4_0 start 1" in event.text)
    assert told.level == "warning"


@pytest.mark.model
def test_no_number_at_all_is_a_failure_and_the_next_run_measures_anew(
    workspace: Workspace, publish_model: Callable[[bytes], GgufModel], toolchain
) -> None:
    model = publish_model(b"no GGUF")
    for _ in range(2):
        with pytest.raises(ProcessFailed, match="gave no number in 4 process starts on local"):
            bench(model, SMALL, workspace)
    assert not list((workspace.root / "artifacts").glob("bench/*"))


def test_an_unknown_device_is_a_configuration_error(
    workspace: Workspace, publish_model: Callable[[bytes], GgufModel]
) -> None:
    with pytest.raises(BadConfig, match="device 'toaster' is not known"):
        bench(publish_model(b"x"), SMALL.model_copy(update={"device": "toaster"}), workspace)


def test_the_guard_names_a_program_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "core.bench.guard", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EDGEKILN_PARENT": str(os.getpid())},
    )
    assert done.returncode == 1
    assert "none: No such file or directory" in done.stderr
