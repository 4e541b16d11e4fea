"""What a Raspberry Pi prints is read, recorded here as its kernel writes it."""

from __future__ import annotations

import subprocess

from hypothesis import given
from hypothesis import strategies as st

from core.bench import board

PI5 = """
@@ /proc/cpuinfo
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd0b

Revision\t: d04170
Model\t\t: Raspberry Pi 5 Model B Rev 1.0

@@ /proc/meminfo
MemTotal:        8245432 kB
MemFree:         7103248 kB

@@ /proc/device-tree/model
Raspberry Pi 5 Model B Rev 1.0
@@ /proc/device-tree/serial-number
7d2a1f0c9be84411
@@ /etc/machine-id
0123456789abcdef0123456789abcdef

@@ arch
aarch64

@@ os
Linux 6.6.51+rpt-rpi-2712

@@ cpus
4
"""


def test_a_raspberry_pi_5_is_read() -> None:
    facts = board.host_facts(PI5)
    assert (facts.arch, facts.os, facts.cpus_usable) == ("aarch64", "Linux 6.6.51+rpt-rpi-2712", 4)
    assert (facts.cpu_model, facts.board_model) == ("Cortex-A76", "Raspberry Pi 5 Model B Rev 1.0")
    assert "asimddp" in facts.cpu_features
    assert facts.ram_bytes == 8245432 * 1024


def test_the_fingerprint_survives_an_update_but_not_another_board() -> None:
    own = board.host_facts(PI5).fingerprint
    assert board.host_facts(PI5.replace("6.6.51", "6.12.1").replace("7103248", "5000000")).fingerprint == own
    assert board.host_facts(PI5.replace("7d2a1f0c9be84411", "7d2a1f0c9be84412")).fingerprint != own


def test_the_size_of_the_memory_is_all_that_is_claimed() -> None:
    memory = board.memory_facts(PI5)
    assert (memory.known, memory.total_bytes, memory.theoretical_gbs) == (False, 8245432 * 1024, None)


def test_samples_have_none_where_the_board_tells_nothing() -> None:
    text = "1763693000|61850|2400000|3.52|6291456|throttled=0x50005|ondemand\n1763693001||||||\n1763693002|6"
    first, second = board.samples(text)
    assert (first.temperature_c, first.clock_mhz, first.throttled_bits) == (61.85, 2400, 0x50005)
    assert (second.temperature_c, second.available_ram_bytes, second.throttled_bits, second.governor) == (None,) * 4


def test_llama_bench_is_known_by_version_and_hash() -> None:
    head = "7f 45 4c 46 02 01 01 00 00 00 00 00 00 00 00 00 03 00 b7 00"
    tool = board.bench_tool(f"\n@@ head\n {head}\n@@ version\nversion: 6789 (0c1e570)\n@@ sha256\n{'ab' * 32}  -\n")
    assert (tool.identity, tool.arch) == ("6789 (0c1e570), sha256 abababababab", "aarch64")
    assert board.bench_tool("@@ head\nerror: invalid parameter").arch is None
    assert board.bench_tool("").identity.startswith("version unknown")


@given(st.text(max_size=300))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for words in (text, f"@@ /proc/cpuinfo\n{text}", f"@@ cpus\n{text}", f"@@ head\n{text}"):
        board.host_facts(words)
        board.bench_tool(words)
        board.memory_facts(words)
    board.samples(text)
    board.samples("|".join(text[:7].ljust(7)))


def test_the_scripts_are_posix_shell() -> None:
    for script in (board.FACTS, board.TOOL, board.HAVE, board.PUT, board.MEASURE):
        subprocess.run(["sh", "-n", "-c", script], check=True)
