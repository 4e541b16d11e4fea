"""Processor, cores, limits and memory of a machine: read here from /proc and /sys, or from the text a board sent."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

from core.contract import Confidence, Contract, Finding, Severity
from core.env import cgroup, cpu
from core.env.host import read_host
from core.env.machine.clock import newest_file_s
from core.env.machine.interpreter import Interpreter, read_interpreter
from core.env.machine.surroundings import Surroundings, read_surroundings
from core.memory.host import read_memory
from core.nouns import HostFacts, MemoryFacts

GB = 1e9
_CPUFREQ = Path("/sys/devices/system/cpu")
_SLOW_GOVERNORS = {"powersave", "userspace"}
_OWN_SCALING = ("intel_pstate", "amd-pstate-epp")  # their `powersave` is the ordinary one that follows the load


class System(Contract):
    """A machine's processor and memory; None where it does not tell."""

    host: HostFacts
    surroundings: Surroundings
    memory: MemoryFacts
    cpus_online: int | None
    affinity: int | None
    quota: float | None
    governors: tuple[str, ...]
    scaling_driver: str | None
    ram_available_bytes: int | None
    swap_bytes: int | None
    now_s: float


class ThisMachine(Contract):
    """This machine and the interpreter that looks at it."""

    system: System
    interpreter: Interpreter
    newest_file_s: float


def read(argument: dict[str, Any]) -> ThisMachine:
    """Read this machine; `variables` are the environment's that tell of a virtual environment or a notebook."""
    meminfo = fields_kib(_text("/proc/meminfo") or "")
    return ThisMachine(
        system=System(
            host=read_host(),
            surroundings=read_surroundings(platform.system(), platform.release(), _text, os.path.exists),
            memory=read_memory(),
            cpus_online=os.cpu_count(),
            affinity=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            quota=cgroup.cpu_limit(),
            governors=_values("cpu[0-9]*/cpufreq/scaling_governor"),
            scaling_driver=next(iter(_values("cpu[0-9]*/cpufreq/scaling_driver")), None),
            ram_available_bytes=meminfo.get("MemAvailable"),
            swap_bytes=meminfo.get("SwapTotal"),
            now_s=time.time(),
        ),
        interpreter=read_interpreter(argument["variables"]),
        newest_file_s=newest_file_s(Path(__file__).resolve().parents[2]),
    )


def fields_kib(meminfo: str) -> dict[str, int]:
    """Return the fields of /proc/meminfo that are in kB, in bytes."""
    found = {}
    for line in meminfo.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].endswith(":") and words[1].isdecimal() and words[2] == "kB":
            found[words[0][:-1]] = int(words[1]) * 1024
    return found


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _values(pattern: str) -> tuple[str, ...]:
    texts = (_text(str(path)) for path in _CPUFREQ.glob(pattern))
    return tuple(sorted({text.strip() for text in texts if text}))


def usable_ram_bytes(host: HostFacts) -> int | None:
    """Return the RAM a process may use there, the control group's limit counted."""
    return min((size for size in (host.ram_bytes, host.ram_limit_bytes) if size is not None), default=None)


def ram_findings(host: HostFacts, least_gb: float, key: str, place: str = "") -> list[Finding]:
    """Judge the RAM that may be used by `least_gb`, the value of the configuration's `key`."""
    usable = usable_ram_bytes(host)
    if usable is None or usable / GB >= least_gb:
        return []
    limited = host.ram_limit_bytes == usable and usable != host.ram_bytes
    return [
        Finding(
            code="ram",
            severity=Severity.ERROR,
            where=f"{place}control group" if limited else f"{place}RAM",
            evidence=f"{usable / GB:.1f} GB usable < {key} {least_gb:g}",
            cause="the container's memory limit" if limited else "the machine has less memory than the job needs",
            confidence=Confidence.HIGH,
            remedy=f"{'Raise the container limit' if limited else 'Use a larger machine'}, or lower {key}.",
            verify_argv=("cat", "/sys/fs/cgroup/memory.max") if limited else ("free", "-b"),
        )
    ]


def cpu_findings(system: System, place: str = "") -> list[Finding]:
    """Judge features, cores and governor."""
    return [*_feature_findings(system.host, place), *_core_findings(system, place), *_governor_findings(system, place)]


def _feature_findings(host: HostFacts, place: str) -> list[Finding]:
    missing = cpu.missing_features(host.arch, host.cpu_features)
    if not missing:
        return []
    return [
        Finding(
            code="cpu-features",
            severity=Severity.WARNING,
            where=f"{place}{host.cpu_model or 'processor'}",
            evidence=f"/proc/cpuinfo lists no {' and no '.join(missing)}",
            cause="an old processor, or a virtual machine that hides its features",
            confidence=Confidence.MEDIUM,
            remedy="In a virtual machine, pass the host's processor through (QEMU: -cpu host); else expect a slower llama.cpp.",
            verify_argv=("lscpu",),
        )
    ]


def _core_findings(system: System, place: str) -> list[Finding]:
    """Tell when a quota or an affinity leaves less than what is there: threads beyond it only wait for each other."""
    usable, online = system.host.cpus_usable, system.cpus_online
    if online is None or usable >= online:
        return []
    by_quota = system.quota is not None and (system.affinity is None or system.quota < system.affinity)
    told = f"the control group's quota is {system.quota:g}" if by_quota else f"the affinity is {system.affinity}"
    return [
        Finding(
            code="cpus",
            severity=Severity.INFO,
            where=f"{place}processors",
            evidence=f"{usable} of {online} processors may be used: {told}",
            cause="a limit of the container, or taskset" if by_quota else "taskset or a cpuset",
            remedy="Raise the limit if more should work; thread counts follow what may be used.",
            verify_argv=("nproc",),
        )
    ]


def _governor_findings(system: System, place: str) -> list[Finding]:
    slow = sorted(set(system.governors) & _SLOW_GOVERNORS)
    if not slow or (system.scaling_driver or "").startswith(_OWN_SCALING):
        return []
    return [
        Finding(
            code="governor",
            severity=Severity.WARNING,
            where=f"{place}processors",
            evidence=f"scaling_governor is {', '.join(slow)} (driver {system.scaling_driver or 'unknown'})",
            cause="the clock is held low to save power, so measured speeds are too",
            confidence=Confidence.HIGH,
            remedy="Let the clock follow the load while it measures: sudo cpupower frequency-set -g performance",
            remedy_argv=("sudo", "cpupower", "frequency-set", "-g", "performance"),
            verify_argv=("cat", "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        )
    ]
