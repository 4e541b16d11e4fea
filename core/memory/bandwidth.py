"""Memory bandwidth, measured by one small C program that is compiled into the cache once; the parser of what it prints."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from pydantic import Field

from core.contract import Contract
from core.errors import ProcessFailed, ToolMissing
from core.files import digest_of
from core.process import capture

_FLAGS = ("-std=c11", "-O3", "-march=native", "-pthread")
_COMPILE_TIMEOUT_S = 60.0
_PREPARE_S = 30.0  # the first touch of the arrays on a slow board
_SMALLEST_ARRAY_BYTES = 64 << 20
_CACHE_MULTIPLE = 4  # STREAM's rule: an array is at least four times the caches together
_CACHES = Path("/sys/devices/system/cpu")
_LARGEST_SHARE = 8  # of the memory that is free, for all three arrays


class KernelBandwidth(Contract):
    """One kernel's bandwidth in GB/s (1e9); `best_gbs` is of the fastest repetition."""

    best_gbs: float = Field(gt=0, allow_inf_nan=False)
    median_gbs: float = Field(gt=0, allow_inf_nan=False)
    repetitions: int = Field(ge=1)


class BandwidthReading(Contract):
    """What was measured, with what: `threads` of a program that `compiler` made, on arrays of `array_bytes`."""

    threads: int = Field(ge=1)
    array_bytes: int = Field(ge=1)
    copied: KernelBandwidth
    triad: KernelBandwidth
    compiler: str


def measure(cache: Path, threads: int, seconds: float, available_bytes: int | None = None) -> BandwidthReading:
    """Measure copy and triad with `threads` threads for about `seconds`.

    `available_bytes` is the memory that is free: the arrays take an eighth of it at most. ToolMissing without a compiler,
    ProcessFailed when the program does not compile or computes wrongly.
    """
    compiler = _compiler()
    program = _compiled(cache, compiler)
    text = capture(
        [str(program), str(threads), f"{seconds:g}", str(array_bytes(_cache_bytes(), available_bytes))],
        timeout_s=seconds + _PREPARE_S,
    )
    return parse(text, compiler)


def parse(text: str, compiler: str) -> BandwidthReading:
    """Parse what the program prints; ProcessFailed when it is anything else."""
    pattern = r"^(copy|triad) (\d+) (\d+) (\d+) (\d+\.\d+) (\d+\.\d+)$"
    rows = {found[1]: found for found in re.finditer(pattern, text, flags=re.MULTILINE)}
    try:
        kernels = {
            name: KernelBandwidth(repetitions=int(row[4]), best_gbs=float(row[5]), median_gbs=float(row[6]))
            for name, row in rows.items()
        }
        threads, size = int(rows["triad"][2]), int(rows["triad"][3])
        return BandwidthReading(
            threads=threads, array_bytes=size, copied=kernels["copy"], triad=kernels["triad"], compiler=compiler
        )
    except (KeyError, ValueError) as error:
        raise ProcessFailed(
            f"bandwidth printed {text[:200]!r}, expected a line for copy and one for triad",
            remedy="Remove the folder `bandwidth` of the cache and run again.",
        ) from error


def array_bytes(cache_bytes: int, available_bytes: int | None) -> int:
    """Return an array's size: four times the caches, 64 MiB at least, an eighth of the free memory for all three at most."""
    wanted = max(_SMALLEST_ARRAY_BYTES, _CACHE_MULTIPLE * cache_bytes)
    limit = wanted if available_bytes is None else available_bytes // _LARGEST_SHARE // 3
    return max(1 << 20, min(wanted, limit))


def _cache_bytes(root: Path = _CACHES) -> int:
    """Return the bytes of all last-level caches; 0 where the kernel does not tell."""
    sizes: dict[str, tuple[int, int]] = {}
    for folder in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level = int((folder / "level").read_text())
            shared = (folder / "shared_cpu_list").read_text().strip()
            number, unit = re.fullmatch(r"(\d+)([KM]?)\s*", (folder / "size").read_text()).groups()  # type: ignore[union-attr]
        except (OSError, ValueError, AttributeError):
            continue
        sizes[f"{level}:{shared}"] = (level, int(number) << {"": 0, "K": 10, "M": 20}[unit])
    last = max((level for level, _ in sizes.values()), default=0)
    return sum(size for level, size in sizes.values() if level == last)


def _compiler() -> str:
    if shutil.which("cc") is None:
        raise ToolMissing(
            "measuring memory bandwidth needs cc, not found in PATH",
            remedy="sudo apt-get install gcc libc6-dev (Debian, Ubuntu, Raspberry Pi OS), then run again.",
        )
    return capture(["cc", "--version"], timeout_s=30).partition("\n")[0]


def _compiled(cache: Path, compiler: str) -> Path:
    """Return the program, compiled where it is missing; two processes at once each make it and the last one stays."""
    source = resources.files("core.memory").joinpath("bandwidth.c").read_text(encoding="utf-8")
    key = digest_of([source, compiler, _FLAGS, platform.machine(), _cpu()])[:16]
    program = cache / "bandwidth" / key / "bandwidth"
    if program.is_file():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        text, made = Path(scratch) / "bandwidth.c", Path(scratch) / "bandwidth"
        text.write_text(source, encoding="utf-8")
        capture(["cc", *_FLAGS, "-o", str(made), str(text)], timeout_s=_COMPILE_TIMEOUT_S)
        made.replace(program)
    return program


def _cpu() -> str:
    """Return what -march=native depends on: a cache folder may be shared between machines."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return platform.processor()
    kept = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return "\n".join(line for line in first.splitlines() if line.startswith(kept))
