"""The 1 Hz sampler of this machine: temperature, clock, load, available RAM, throttling; and the summary of samples.

Samples of a board are taken on the board (core/bench/ssh.py) and summarised here.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from pydantic import AwareDatetime, ValidationError

from core.contract import Contract
from core.nouns import TelemetrySummary

T = TypeVar("T")

# Names by which drivers announce the CPU's sensor, best first; hwmon and zone numbers change from boot to boot.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "soc-thermal")
_CPU_ZONES = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "soc_thermal", "cpu0-thermal", "acpitz")
_CPUFREQ = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"
_GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
_THROTTLED = "sys/devices/platform/soc*/*firmware/get_throttled"

# Bits of get_throttled: 1 frequency capped, 2 throttled, 3 soft temperature limit; 16 higher is "since boot".
# Source: raspberrypi.com/documentation/computers/os.html#get_throttled
_NOW_BITS = 0b1110
_SINCE_BOOT_BITS = _NOW_BITS << 16


class Sample(Contract):
    """One look at a machine; None where it does not tell. `throttled_bits` is a Raspberry Pi's get_throttled."""

    at: AwareDatetime
    temperature_c: float | None = None
    clock_mhz: float | None = None
    load_1min: float | None = None
    available_ram_bytes: int | None = None
    throttled_bits: int | None = None
    governor: str | None = None


def read_sample(root: Path = Path("/")) -> Sample:
    """Look at the machine whose /proc and /sys lie below `root`; never raises."""
    return Sample(
        at=datetime.now(UTC),
        temperature_c=_or_none(lambda: _temperature_c(root)),
        clock_mhz=_or_none(lambda: _clock_mhz(root)),
        load_1min=_or_none(lambda: float(_read(root / "proc/loadavg").split()[0])),
        available_ram_bytes=_or_none(lambda: _available_ram_bytes(root)),
        throttled_bits=_or_none(lambda: int(_read(next(root.glob(_THROTTLED))), 16)),
        governor=_or_none(lambda: _read(root / _GOVERNOR)),
    )


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except (OSError, ValueError, LookupError, StopIteration):
        return None


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _temperature_c(root: Path) -> float | None:
    inputs = _named(root, "sys/class/hwmon/hwmon*", "name", _CPU_SENSORS, "temp*_input")
    inputs = inputs or _named(root, "sys/class/thermal/thermal_zone*", "type", _CPU_ZONES, "temp")
    return max((int(_read(path)) / 1000 for path in inputs), default=None)


def _named(root: Path, pattern: str, label: str, wanted: Sequence[str], values: str) -> list[Path]:
    found = {_read(folder / label): folder for folder in root.glob(pattern) if (folder / label).is_file()}
    best = next((found[name] for name in wanted if name in found), None)
    return sorted(best.glob(values)) if best else []


def _clock_mhz(root: Path) -> float | None:
    """Return the clock of the fastest core: a cap shows on all cores, an idle core shows nothing."""
    clocks = [int(_read(path)) / 1000 for path in root.glob(_CPUFREQ)]
    if not clocks:
        lines = _read(root / "proc/cpuinfo").splitlines()
        clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(clocks, default=None)


def _available_ram_bytes(root: Path) -> int:
    lines = _read(root / "proc/meminfo").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


class Sampler:
    """Appends a sample a second to a JSON lines file while it is entered; never disturbs what it watches by an error."""

    def __init__(self, path: Path, interval_s: float = 1.0, root: Path = Path("/")) -> None:
        self._path = path
        self._interval_s = interval_s
        self._root = root
        self._samples: list[Sample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="telemetry", daemon=True)

    def __enter__(self) -> Sampler:
        self._take()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    def summary(self) -> TelemetrySummary:
        """Return what was seen so far."""
        return summarise(self._samples)

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._take()

    def _take(self) -> None:
        sample = read_sample(self._root)
        self._samples.append(sample)
        # a full disk must not end a measurement; the sample is still in the summary
        with contextlib.suppress(OSError):
            append_samples(self._path, [sample])


def append_samples(path: Path, samples: Iterable[Sample]) -> None:
    """Append samples to a telemetry file."""
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(sample.model_dump_json() + "\n" for sample in samples)


def read_samples(path: Path) -> list[Sample]:
    """Read a telemetry file; a line that a kill cut short is left out, no file is no sample."""
    samples = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        with contextlib.suppress(ValidationError):
            samples.append(Sample.model_validate_json(line))
    return samples


def summarise(samples: Sequence[Sample]) -> TelemetrySummary:
    """Sum samples up."""
    return TelemetrySummary(
        samples=len(samples),
        max_temperature_c=max((s.temperature_c for s in samples if s.temperature_c is not None), default=None),
        min_clock_mhz=min((s.clock_mhz for s in samples if s.clock_mhz is not None), default=None),
        max_load_1min=max((s.load_1min for s in samples if s.load_1min is not None), default=None),
        min_available_ram_bytes=min(
            (s.available_ram_bytes for s in samples if s.available_ram_bytes is not None), default=None
        ),
        throttled=_throttled([s.throttled_bits for s in samples if s.throttled_bits is not None]),
    )


def _throttled(bits: Sequence[int]) -> bool | None:
    """Tell whether it throttled while watched; a since-boot bit that was set before is no evidence."""
    if not bits:
        return None
    newly_set = bits[-1] & ~bits[0] & _SINCE_BOOT_BITS
    return bool(newly_set) or any(value & _NOW_BITS for value in bits)
