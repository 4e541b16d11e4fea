"""The measurements of the doctor: memory bandwidth and write speed. Run alone, after everything that only reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from core.contract import Confidence, Contract, Finding, Severity
from core.env.machine.storage import WriteSpeed, write_speed
from core.errors import EdgekilnError
from core.memory.bandwidth import BandwidthReading, measure


class Speed(Contract):
    """What was measured; None with its reason in `bandwidth_error` or `written_error`."""

    bandwidth: BandwidthReading | None
    bandwidth_error: str | None
    written: WriteSpeed | None
    written_error: str | None


def read(argument: dict[str, Any]) -> Speed:
    """Measure for about `seconds` each: memory with `threads`, then a file of `most_bytes` at most in `folder`."""
    bandwidth, bandwidth_error = _bandwidth(Path(argument["cache"]), argument["threads"], argument["seconds"])
    written, written_error = None, None
    try:
        written = write_speed(Path(argument["folder"]), argument["seconds"], argument["most_bytes"])
    except OSError as error:
        written_error = error.strerror or str(error)
    return Speed(bandwidth=bandwidth, bandwidth_error=bandwidth_error, written=written, written_error=written_error)


def _bandwidth(cache: Path, threads: int, seconds: float) -> tuple[BandwidthReading | None, str | None]:
    try:
        return measure(cache, threads, seconds, psutil.virtual_memory().available), None
    except EdgekilnError as error:
        return None, error.problem
    except OSError as error:
        return None, f"{cache}: {error.strerror}"


def bandwidth_findings(found: BandwidthReading, least_gbs: float) -> list[Finding]:
    """Judge the triad bandwidth."""
    if found.triad.best_gbs >= least_gbs:
        return []
    return [
        Finding(
            code="memory-bandwidth",
            severity=Severity.WARNING,
            where="RAM",
            evidence=f"triad {found.triad.best_gbs:.1f} GB/s with {found.threads} threads < env.min_memory_gbs {least_gbs:g}",
            cause="slow or single-channel memory, a throttled processor, or somebody else is working",
            confidence=Confidence.LOW,
            remedy="Close other programs and look again; fill all memory channels of the board.",
            verify_argv=("edgekiln", "env", "--no-cache"),
        )
    ]
