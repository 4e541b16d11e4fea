"""The memory of this machine as its firmware describes it. Unknown is an answer, with the reason."""

from __future__ import annotations

from pathlib import Path

from core.memory.smbios import MAX_TABLE_BYTES, memory_devices, theoretical_gbs
from core.nouns import MemoryFacts

_TABLE = "sys/firmware/dmi/tables/DMI"


def read_memory(root: Path = Path("/")) -> MemoryFacts:
    """Read the memory of the machine whose /proc and /sys lie below `root`."""
    total_bytes = _total_bytes(root)
    table, why = _read_table(root)
    devices = memory_devices(table)
    if not devices:
        evidence = f"{why or f'/{_TABLE} describes no populated memory device'}; total from /proc/meminfo"
        return MemoryFacts(known=False, total_bytes=total_bytes, modules=(), theoretical_gbs=None, evidence=evidence)
    return MemoryFacts(
        known=True,
        total_bytes=total_bytes,
        modules=tuple(device.module for device in devices),
        theoretical_gbs=theoretical_gbs(devices),
        evidence=f"SMBIOS types 16 and 17 in /{_TABLE}; total from /proc/meminfo",
    )


def _read_table(root: Path) -> tuple[bytes, str | None]:
    try:
        with (root / _TABLE).open("rb") as stream:
            return stream.read(MAX_TABLE_BYTES), None
    except PermissionError:
        return b"", f"/{_TABLE} may only be read by root"
    except FileNotFoundError:
        return b"", f"/{_TABLE} is not there: the firmware of boards and of some virtual machines has no SMBIOS"
    except OSError as error:
        return b"", f"/{_TABLE} cannot be read: {error.strerror}"


def _total_bytes(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return total_bytes(lines)


def total_bytes(meminfo: list[str]) -> int | None:
    """Return MemTotal from the lines of /proc/meminfo, None when they have none."""
    for line in meminfo:
        words = line.split()
        if len(words) >= 2 and words[0] == "MemTotal:" and words[1].isdecimal():
            return int(words[1]) * 1024
    return None
