"""NVIDIA GPUs as NVML tells them, asked through nvidia-smi's machine-readable query."""

from __future__ import annotations

import csv
import shutil

from core.contract import Contract
from core.errors import ProcessFailed, ToolMissing
from core.process import capture

PROGRAM = "nvidia-smi"
_QUERY = "name,memory.total,memory.free,driver_version,compute_cap"
_TIMEOUT_S = 10.0  # without persistence mode the driver initialises each GPU first, seconds each


class Gpu(Contract):
    """One GPU; None where the driver says [N/A]."""

    name: str
    memory_total_mib: int | None
    memory_free_mib: int | None
    driver: str
    compute_capability: str | None


class GpuReading(Contract):
    """What could be read; `evidence` says from where, or why nothing."""

    gpus: tuple[Gpu, ...]
    evidence: str


def read_gpus() -> GpuReading:
    """Ask the driver for its GPUs; no GPU and a broken driver are answers, not errors."""
    if shutil.which(PROGRAM) is None:
        return GpuReading(gpus=(), evidence=f"{PROGRAM} is not installed")
    try:
        text = capture([PROGRAM, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"], timeout_s=_TIMEOUT_S)
    except (ProcessFailed, ToolMissing) as error:
        return GpuReading(gpus=(), evidence=error.problem)
    gpus = parse_query(text)
    return GpuReading(gpus=gpus, evidence=f"{PROGRAM}: {text.strip()[:400] or 'it printed nothing'}")


def parse_query(text: str) -> tuple[Gpu, ...]:
    """Parse the query's CSV without header and units; lines of another shape are passed over."""
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if len(row) == len(_QUERY.split(","))]
    return tuple(
        Gpu(
            name=name.strip(),
            memory_total_mib=_number(total),
            memory_free_mib=_number(free),
            driver=driver.strip(),
            compute_capability=None if "N/A" in capability else capability.strip(),
        )
        for name, total, free, driver, capability in rows
    )


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None
