"""Measures what this machine can do: matrix multiplication, memory bandwidth, disk. Kept as a file a run, before the database.

How it enters the database and is compared is in core/benchdb/machine.py.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, Field, ValidationError

from core.bench.llama_bench import detect_origin, elf_arch
from core.contract import Contract, Origin
from core.env.capability import value_of
from core.env.host import read_host
from core.env.machine import speed
from core.env.matmul.reading import Multiplications
from core.env.probe import Probe, Reading, run_probes
from core.events import OnEvent, ignore
from core.files import write_atomic
from core.nouns import HostFacts
from core.workspace import Workspace

FOLDER = "machine-benchmarks"
_CPU_SIZE = 1024
_GPU_SIZE = 8192  # smaller ones leave a large GPU waiting for work
_MOST_WRITTEN_BYTES = 4 << 30
_START_S = 60.0  # importing torch from a slow disk, starting CUDA, compiling the C program
_KINDS = 3  # dtypes


class Figure(Contract):
    """One measurement; `detail` says how it was made, and without a `value` there is an `error`."""

    test: str
    device: str
    detail: str
    unit: str
    origin: Origin
    value: float | None = Field(gt=0, allow_inf_nan=False)
    error: str | None


class MachineRun(Contract):
    """One run of all measurements on one machine."""

    run_id: str
    measured_at: AwareDatetime
    host: HostFacts
    tools: dict[str, str]
    figures: tuple[Figure, ...]


def measure(workspace: Workspace, cache: Path, seconds: float, on_event: OnEvent = ignore) -> MachineRun:
    """Measure one thing after the other, about `seconds` each, and keep the run below `machine-benchmarks/`."""
    host = read_host()
    at = datetime.now(UTC)
    multiply: dict[str, Any] = {"cpu_size": _CPU_SIZE, "gpu_size": _GPU_SIZE, "seconds": seconds}
    memory: dict[str, Any] = {
        "cache": str(cache),
        "folder": str(workspace.root),
        "seconds": seconds,
        "most_bytes": _MOST_WRITTEN_BYTES,
    }
    probes = [
        _alone("matmul", "core.env.matmul.worker:read", multiply, _START_S + 9 * _KINDS * (seconds + 1)),
        *(
            _alone(
                f"speed-{threads}", "core.env.machine.speed:read", {**memory, "threads": threads}, _START_S + 4 * seconds
            )
            for threads in dict.fromkeys((1, host.cpus_usable))
        ),
    ]
    readings = run_probes(probes, workspace.root / "staging" / "machine-bench", on_event)
    figures = figures_of(readings, origin_of(host), host.cpus_usable)
    multiplied = value_of(readings, "matmul", Multiplications)
    tools = {"torch": multiplied.torch} if multiplied else {}
    run = MachineRun(run_id=f"{at:%Y%m%dT%H%M%S%f}", measured_at=at, host=host, tools=tools, figures=figures)
    write_atomic(workspace.root / FOLDER / f"{run.run_id}.json", run.model_dump_json(indent=1).encode())
    return run


def _alone(name: str, target: str, argument: dict[str, Any], timeout_s: float) -> Probe:
    return Probe(name=name, target=target, argument=argument, timeout_s=timeout_s, alone=True)


def origin_of(host: HostFacts) -> Origin:
    """Return whether this machine's numbers are measured or those of an emulator, by the interpreter and the processor."""
    with Path(sys.executable).open("rb") as stream:
        program = elf_arch(stream.read(20))
    return detect_origin(host.cpu_model or "", host.arch, program)


def figures_of(readings: dict[str, Reading], origin: Origin, threads: int) -> tuple[Figure, ...]:
    """Return what the probes measured; a probe that failed is a figure with its error."""
    found = [*_multiplied(readings, origin)]
    for count in dict.fromkeys((1, threads)):
        found += _speeds(readings[f"speed-{count}"], count, origin, disk=count == threads)
    return tuple(found)


def _multiplied(readings: dict[str, Reading], origin: Origin) -> list[Figure]:
    same: dict[str, Any] = {"test": "matmul", "unit": "TFLOP/s", "origin": origin}
    told = value_of(readings, "matmul", Multiplications)
    if told is None:
        return [Figure(**same, device="all", detail="", value=None, error=readings["matmul"].error)]
    return [
        Figure(**same, device=each.device, detail=f"{each.dtype} {each.size}", value=each.median_tflops, error=each.error)
        for each in told.results
    ]


def _speeds(reading: Reading, threads: int, origin: Origin, *, disk: bool) -> list[Figure]:
    told = value_of({"speed": reading}, "speed", speed.Speed)
    same: dict[str, Any] = {"device": "RAM", "detail": f"{threads} threads", "unit": "GB/s", "origin": origin}
    bandwidth = told.bandwidth if told else None
    why = None if bandwidth else (told.bandwidth_error if told else reading.error)
    rates = {"copy": bandwidth.copied.median_gbs, "triad": bandwidth.triad.median_gbs} if bandwidth else {}
    found = [Figure(**same, test=f"memory {name}", value=rates.get(name), error=why) for name in ("copy", "triad")]
    return [*found, _disk(told, reading, origin)] if disk else found


def _disk(told: speed.Speed | None, reading: Reading, origin: Origin) -> Figure:
    written = told.written if told else None
    return Figure(
        test="disk write",
        device="workspace",
        detail="synced",
        unit="MB/s",
        origin=origin,
        value=written.mbs if written else None,
        error=None if written else (told.written_error if told else reading.error),
    )


def kept_runs(workspace: Workspace) -> list[MachineRun]:
    """Return the runs that were kept, oldest first; a file that is not one is passed over."""
    found = []
    for path in sorted((workspace.root / FOLDER).glob("*.json")):
        try:
            found.append(MachineRun.model_validate_json(path.read_bytes()))
        except ValidationError:
            continue
    return found
