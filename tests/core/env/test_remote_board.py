"""A board examined over SSH: a real server, its shell and its folders; recorded answers of a Raspberry Pi."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.contract import Finding
from core.env.capability import Context
from core.env.check import look
from core.env.host import read_host
from core.env.remote_board import CAPABILITY, Board, board_findings, parse
from core.env.roles import Role
from tests.core.bench.conftest import Board as Server

PI_FACTS = """
@@ /proc/cpuinfo
processor	: 0
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU part	: 0xd08

@@ /proc/meminfo
MemTotal:         948304 kB
MemAvailable:     612345 kB
SwapTotal:        102396 kB

@@ /proc/device-tree/model
Raspberry Pi 4 Model B Rev 1.4
@@ /etc/machine-id
0123456789abcdef0123456789abcdef
@@ arch
aarch64
@@ os
Linux 6.6.51+rpt-rpi-v8
@@ cpus
4
"""
PI_TOLD = {
    "now": "1000",
    "system": "Linux",
    "release": "6.6.51+rpt-rpi-v8",
    "online": "4",
    "governors": "powersave",
    "driver": "cpufreq-dt",
    "limit": "max",
    "containers": "",
    "space": "/dev/mmcblk0p2 30000000 29500000 400000 99% /",
    "place": "/home/pi",
    "writable": "",
    "llama-bench": "",
}
Contexts = Callable[..., Context]


def pi(facts: str = PI_FACTS, **told: str) -> Board:
    return parse("pi4", facts, PI_TOLD | told, asked_s=5000.0)


def codes(found: list[Finding]) -> set[str]:
    return {finding.code for finding in found}


def test_a_poor_board_is_told_each_thing_it_lacks(context: Contexts) -> None:
    found = board_findings(pi(limit="500000000"), context((Role.BOARD,), ssh_host="pi"))

    assert codes(found) == {"ram", "cpu-features", "governor", "clock", "disk", "cache", "board-programs"}
    by_code = {finding.code: finding for finding in found}
    assert by_code["ram"].evidence == "0.5 GB usable < env.min_board_ram_gb 0.9"
    assert by_code["disk"].evidence == "0.4 GB free < env.min_board_free_disk_gb 1"
    assert all(finding.where.startswith("pi4: ") for finding in found)


def test_a_sound_pi_without_cuda_is_healthy(context: Contexts) -> None:
    space = "/dev/mmcblk0p2 30000000 500000 29000000 2% /"
    well = {"now": "5001", "governors": "ondemand", "space": space, "writable": "yes", "llama-bench": "/bin/llama-bench"}

    sound = pi(PI_FACTS.replace("cpuid", "cpuid asimddp"), **well)

    assert board_findings(sound, context((Role.BOARD,), ssh_host="pi")) == []


def test_an_answer_that_is_cut_short_is_unknown_not_wrong() -> None:
    found = parse("pi4", "", {}, asked_s=5.0)

    assert found.free_bytes is None
    assert found.system.now_s == 5.0
    assert found.system.host.ram_bytes is None


def test_a_board_is_examined_through_a_real_server(board: Server, context: Contexts) -> None:
    (board.bin / "llama-bench").write_text("#!/bin/sh\n")
    (board.bin / "llama-bench").chmod(0o755)
    roles = (Role.TRAINER, Role.BOARD)

    seen = look(context(roles, ssh_host="pi", min_board_ram_gb=1e6), [CAPABILITY])

    found = {each.finding.code: each for each in seen.judged}
    here = read_host()
    told = {fact.name: fact.value for fact in seen.facts}
    assert list(found["ram"].severities) == [Role.BOARD]
    assert "env.min_board_ram_gb 1e+06" in found["ram"].finding.evidence
    assert not {"board", "board-programs", "cache", "clock"} & set(found)
    assert told["board: processor"].startswith(here.cpu_model or "unknown")
    assert str(board.home) in told["board: folder"]
    assert told["board: llama-bench"] == str(board.bin / "llama-bench")


def test_a_board_that_is_not_there_blocks_its_role_and_says_how_to_try(
    board: Server, context: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.config.write_text("Host *\n HostName 127.0.0.1\n Port 1\n", encoding="utf-8")

    seen = look(context((Role.BOARD,), ssh_host="pi"), [CAPABILITY])

    (judged,) = seen.judged
    assert judged.finding.code == "board"
    assert "Connection refused" in judged.finding.evidence
    assert judged.finding.verify_argv == ("ssh", "-o", "BatchMode=yes", "--", "pi", "true")


def test_a_profile_that_measures_here_asks_no_board(context: Contexts) -> None:
    seen = look(context((Role.BOARD,)), [CAPABILITY])

    assert (seen.readings, seen.judged, seen.facts) == ({}, [], [])
