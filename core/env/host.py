"""What this machine is: the facts that name it across runs and those a job depends on. Nothing is judged here."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import psutil

from core.env import cgroup, cpu
from core.nouns import HostFacts

_FINGERPRINT_DIGITS = 16

# World-readable first, so that root and a user get the same fingerprint; the DMI serials are only for root and are
# used only where nothing else tells machines apart. A cloned SD card shares the machine-id, not the board's serial.
_IDS = ("/etc/machine-id", "/proc/device-tree/serial-number")
_FALLBACK_IDS = ("/sys/class/dmi/id/product_uuid", "/sys/class/dmi/id/board_serial")


def read_host() -> HostFacts:
    """Read what this machine is; the fingerprint is the same after a reboot and for every user."""
    cpuinfo = _text("/proc/cpuinfo") or ""
    model = cpu.model_of(cpuinfo) or platform.processor() or None
    board = _text("/proc/device-tree/model")
    ids = [found for path in _IDS if (found := _text(path))]
    if not ids:
        ids = [found for path in _FALLBACK_IDS if (found := _text(path))]
    return HostFacts(
        fingerprint=fingerprint([*ids, board or "", model or "", platform.machine()]),
        arch=platform.machine(),
        os=f"{_distribution()}, kernel {platform.release()}",
        cpu_model=model,
        cpu_features=cpu.features_of(cpuinfo),
        cpus_usable=usable_cpus(affinity(), cgroup.cpu_limit()),
        ram_bytes=psutil.virtual_memory().total,
        ram_limit_bytes=cgroup.memory_limit_bytes(),
        board_model=board,
    )


def fingerprint(facts: Iterable[str]) -> str:
    """Return the hash of the stable facts; the ids themselves are not kept."""
    return hashlib.sha256("\x00".join(facts).encode()).hexdigest()[:_FINGERPRINT_DIGITS]


def usable_cpus(affinity: int, quota: float | None) -> int:
    """Return how many threads can really run at once: whole processors of the quota, at least one."""
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def affinity() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _text(path: str) -> str | None:
    """Return a small file's text without the device tree's closing NUL; None when it cannot be read or is empty."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\x00 \t\r\n") or None
    except OSError:
        return None
