"""The limits of the control group this process lives in: processors and memory, version 1 and 2. Its parsers take text."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NO_LIMIT_BYTES = 1 << 60  # version 1 writes the largest page-aligned number for "no limit"


def memory_limit_bytes(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the tightest memory limit on the way to the root, or None."""
    folders = _folders(_read(membership) or "", root, "memory")
    texts = [_read(folder / name) for folder in folders for name in ("memory.max", "memory.limit_in_bytes")]
    limits = [limit for text in texts if text and (limit := parse_memory(text)) is not None]
    return min(limits, default=None)


def memory_room(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> tuple[int, int] | None:
    """Return what is left and the limit in bytes where least is left on the way to the root; None without a limit.

    File pages that the kernel takes back when memory is short (`inactive_file`) count as left.
    """
    found = [room for folder in _folders(_read(membership) or "", root, "memory") if (room := _room(folder)) is not None]
    return min(found, default=None)


def _room(folder: Path) -> tuple[int, int] | None:
    for limit_name, use_name, idle_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = (parse_memory(_read(folder / name) or "") for name in (limit_name, use_name))
        if limit is not None and used is not None:
            return max(0, limit - used + stat_of(_read(folder / "memory.stat") or "", idle_name)), limit
    return None


def stat_of(text: str, name: str) -> int:
    """Return a number of memory.stat by its name, 0 where it is not told."""
    words = (line.split() for line in text.splitlines())
    return next((int(word[1]) for word in words if len(word) == 2 and word[0] == name and word[1].isdecimal()), 0)


def cpu_limit(root: Path = _ROOT, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return the tightest processor quota on the way to the root in processors, or None."""
    folders = _folders(_read(membership) or "", root, "cpu")
    quotas = [quota for folder in folders if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _quota(folder: Path) -> float | None:
    if text := _read(folder / "cpu.max"):
        return parse_quota(text)
    quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    return parse_quota(f"{quota} {period}") if quota and period else None


def parse_memory(text: str) -> int | None:
    """Parse memory.max or memory.limit_in_bytes; None for no limit."""
    number = text.strip()
    if not number.isdecimal() or int(number) >= _NO_LIMIT_BYTES:
        return None
    return int(number)


def parse_quota(text: str) -> float | None:
    """Parse `quota period` in microseconds, as cpu.max has it; None for no limit."""
    parts = text.split()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or int(parts[1]) == 0:
        return None  # "max 100000" in version 2, "-1 100000" in version 1
    return int(parts[0]) / int(parts[1])


def own_group(membership: str, controller: str) -> str:
    """Return this process's path in /proc/self/cgroup, of the version 1 controller or of version 2."""
    unified = "/"
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
        if not controllers:
            unified = path
    return unified


def _folders(membership: str, root: Path, controller: str) -> list[Path]:
    """Return the group's folder and all above it, in both trees; a container often sees only the root."""
    relative = Path(own_group(membership, controller).lstrip("/"))
    below = [relative, *relative.parents]
    return [base / part for base in (root, root / controller) for part in below if ".." not in part.parts]


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
