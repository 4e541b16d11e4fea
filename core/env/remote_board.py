"""The board a profile names, examined over SSH with the checks of this machine: one sh script, nothing installed there."""

from __future__ import annotations

import time
from typing import Any

from core.bench import board
from core.bench.ssh import SshDevice
from core.catalogue import DeviceCard
from core.contract import Confidence, Contract, Finding, Severity
from core.env import cgroup
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.machine.clock import board_clock_findings
from core.env.machine.facts import system_facts
from core.env.machine.surroundings import read_surroundings
from core.env.machine.system import GB, System, cpu_findings, fields_kib, ram_findings
from core.env.probe import Probe
from core.env.roles import Role
from core.events import ignore
from core.nouns import Fact

_PROBE = "board.system"

# $1 folder of the card, $2 its llama-bench. Needs sh and coreutils, as the scripts of core/bench/board.py.
_EXAMINE = r"""
place=$1
while [ -n "$place" ] && [ ! -d "$place" ]; do case $place in */*) place=${place%/*} ;; *) place=. ;; esac; done
place=${place:-/}
printf '\n@@ now\n'; date +%s
printf '\n@@ system\n'; uname -s
printf '\n@@ release\n'; uname -r
printf '\n@@ online\n'; getconf _NPROCESSORS_ONLN
printf '\n@@ governors\n'; cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>/dev/null | sort -u
printf '\n@@ driver\n'; cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_driver 2>/dev/null
printf '\n@@ limit\n'; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null
printf '\n@@ /proc/2/comm\n'; cat /proc/2/comm 2>/dev/null
printf '\n@@ containers\n'; for file in /.dockerenv /run/.containerenv; do [ -e "$file" ] && echo "$file"; done
printf '\n@@ space\n'; df -Pk "$place" | tail -n 1
printf '\n@@ place\n'; (cd "$place" && pwd)
printf '\n@@ writable\n'; [ -w "$place" ] && echo yes
printf '\n@@ llama-bench\n'; command -v "$2"
exit 0
"""

CHECKS = tuple(
    Check(code=code, blocks=frozenset({Role.BOARD}), remote=True)
    for code in ("board", "ram", "disk", "cache", "clock", "cpu-features", "cpus", "governor", "board-programs")
)


class Board(Contract):
    """What a board told; `asked_s` is this machine's clock when it did, None is what it does not tell."""

    name: str
    system: System
    place: str
    free_bytes: int | None
    writable: bool
    llama_bench: str | None
    asked_s: float


def read(argument: dict[str, Any]) -> Board:
    """Ask the board of a device card; the errors of core.bench.ssh."""
    card = DeviceCard.model_validate(argument["card"])
    device = SshDevice(card, ignore)
    asked = time.time()
    text = device.ask(_EXAMINE, card.folder, card.llama_bench)
    told = board.sections(text)
    facts = device.ask(board.FACTS)
    return parse(card.name, facts, told, (asked + time.time()) / 2)


def parse(name: str, facts: str, told: dict[str, str], asked_s: float) -> Board:
    """Read what the two scripts printed."""
    files = board.sections(facts) | told
    meminfo = fields_kib(files.get("/proc/meminfo", ""))
    limits = [limit for line in told.get("limit", "").split() if (limit := cgroup.parse_memory(line)) is not None]
    host = board.host_facts(facts).model_copy(update={"ram_limit_bytes": min(limits, default=None)})
    containers = told.get("containers", "").split()
    system = System(
        host=host,
        surroundings=read_surroundings(
            told.get("system", ""), told.get("release", ""), files.get, lambda path: path in containers
        ),
        memory=board.memory_facts(facts),
        cpus_online=_number(told.get("online", "")),
        affinity=host.cpus_usable,
        quota=None,
        governors=tuple(told.get("governors", "").split()),
        scaling_driver=told.get("driver") or None,
        ram_available_bytes=meminfo.get("MemAvailable"),
        swap_bytes=meminfo.get("SwapTotal"),
        now_s=float(_number(told.get("now", "")) or asked_s),
    )
    space = told.get("space", "").split()
    free_kib = _number(space[3]) if len(space) >= 6 else None
    return Board(
        name=name,
        system=system,
        place=told.get("place") or "unknown",
        free_bytes=None if free_kib is None else free_kib * 1024,
        writable=told.get("writable") == "yes",
        llama_bench=told.get("llama-bench") or None,
        asked_s=asked_s,
    )


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdecimal() else None


def board_findings(found: Board, context: Context) -> list[Finding]:
    """Judge a board by the thresholds for boards."""
    place = f"{found.name}: "
    config = context.config
    return [
        *ram_findings(found.system.host, config.min_board_ram_gb, "env.min_board_ram_gb", place),
        *cpu_findings(found.system, place),
        *board_clock_findings(found.name, found.system.now_s, found.asked_s, config.clock_tolerance_s),
        *_disk_findings(found, config.min_board_free_disk_gb),
        *_program_findings(found, context),
    ]


def _disk_findings(found: Board, least_gb: float) -> list[Finding]:
    findings = []
    if found.free_bytes is not None and found.free_bytes / GB < least_gb:
        findings.append(
            Finding(
                code="disk",
                severity=Severity.ERROR,
                where=f"{found.name}: {found.place}",
                evidence=f"{found.free_bytes / GB:.1f} GB free < env.min_board_free_disk_gb {least_gb:g}",
                cause="the board's file system is nearly full",
                confidence=Confidence.HIGH,
                remedy="Free some space on the board, or set another folder in its device card.",
            )
        )
    if not found.writable:
        findings.append(
            Finding(
                code="cache",
                severity=Severity.ERROR,
                where=f"{found.name}: {found.place}",
                evidence="this user may not write there",
                cause="the folder belongs to somebody else or is read-only",
                remedy="Set folder in the device card to one that your user on the board may write.",
            )
        )
    return findings


def _program_findings(found: Board, context: Context) -> list[Finding]:
    card = context.remote_board
    if found.llama_bench is not None or card is None:
        return []
    return [
        Finding(
            code="board-programs",
            severity=Severity.ERROR,
            where=f"{found.name}: PATH",
            evidence=f"`command -v {card.llama_bench}` finds nothing",
            cause="llama.cpp is not built there",
            confidence=Confidence.HIGH,
            remedy=f"Build llama.cpp on the board and set llama_bench in devices/{card.name}.yaml to its path.",
            verify_argv=("ssh", card.host or "", "command", "-v", card.llama_bench),
        )
    ]


def _probes(context: Context) -> list[Probe]:
    card = context.remote_board
    if card is None or Role.BOARD not in context.roles:
        return []
    argument = {"card": card.model_dump(mode="json")}
    return [
        Probe(name=_PROBE, target="core.env.remote_board:read", argument=argument, timeout_s=context.config.probe_timeout_s)
    ]


def _findings(readings: Readings, context: Context) -> list[Finding]:
    if found := value_of(readings, _PROBE, Board):
        return board_findings(found, context)
    reading, card = readings.get(_PROBE), context.remote_board
    if reading is None or card is None:
        return []
    return [
        Finding(
            code="board",
            severity=Severity.ERROR,
            where=card.name,
            evidence=reading.error or "it did not answer",
            cause="it is off, not in the network, or does not know this user's key",
            confidence=Confidence.MEDIUM,
            remedy=f"Make `ssh -o BatchMode=yes {card.host} true` work without a question.",
            verify_argv=("ssh", "-o", "BatchMode=yes", "--", card.host or "", "true"),
        )
    ]


def _facts(readings: Readings, _context: Context) -> list[Fact]:
    found = value_of(readings, _PROBE, Board)
    if found is None:
        return []
    place = f"{found.name}: "
    free = "unknown" if found.free_bytes is None else f"{found.free_bytes / GB:.1f} GB"
    return [
        *system_facts(found.system, place),
        Fact(name=f"{place}folder", value=f"{free} free, {found.place}", source="df"),
        Fact(name=f"{place}llama-bench", value=found.llama_bench or "not found", source="command -v"),
    ]


CAPABILITY = Capability(name="board", checks=CHECKS, probes=_probes, findings=_findings, facts=_facts)
