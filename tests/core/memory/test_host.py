"""SMBIOS images built byte by byte after DSP0134 are read; broken ones are survived; unknown is an answer."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.memory.host import read_memory
from core.memory.smbios import memory_devices, theoretical_gbs

END = struct.pack("<BBH", 127, 4, 0xFEFF) + b"\0\0"


def structure(kind: int, handle: int, body: bytes, *strings: str) -> bytes:
    tail = b"".join(text.encode() + b"\0" for text in strings) or b"\0"
    return struct.pack("<BBH", kind, len(body) + 4, handle) + body + tail + b"\0"


def array(handle: int = 0x10, use: int = 3) -> bytes:
    return structure(16, handle, struct.pack("<BBBIHHQ", 3, use, 3, 0x0400_0000, 0xFFFE, 2, 0))


def device(
    locator: str = "Controller0-ChannelA-DIMM0",
    *,
    handle: int = 0x11,
    size: int = 0x7FFF,
    extended: int = 32768,
    kind: int = 0x22,
    width: int = 64,
    speed: int = 5600,
    configured: int = 4800,
    parent: int = 0x10,
) -> bytes:
    body = struct.pack("<HHHHHBBBBBHHBBBB", parent, 0xFFFE, width, width, size, 9, 0, 1, 2, kind, 0x80, speed, 3, 4, 0, 5)
    body += struct.pack("<BIHHHH", 2, extended, configured, 1100, 1100, 1100)
    body += struct.pack("<BH", 3, 8) + bytes(0x54 - 0x2B) + struct.pack("<II", 8800, 9200)
    return structure(17, handle, body, locator, "BANK 0", "Crucial", "E6A1", "CT32G56C46U5.C16D")


def test_a_ddr5_module_is_read_with_its_rates_and_part_number() -> None:
    (found,) = memory_devices(array() + device() + END)
    module = found.module
    assert (module.kind, module.bytes, module.data_rate_mts, module.configured_mts) == ("DDR5", 32 << 30, 5600, 4800)
    assert (module.manufacturer, module.part_number) == ("Crucial", "CT32G56C46U5.C16D")
    assert (found.data_width_bits, found.channel) == (64, "0/A")
    assert theoretical_gbs([found]) == pytest.approx(38.4)


def test_small_sizes_are_in_mib_or_kib_and_an_empty_slot_is_no_module() -> None:
    table = device(size=8192) + device(size=0x8000 | 512) + device(size=0) + device(size=0xFFFF)
    assert [found.module.bytes for found in memory_devices(table + END)] == [8192 << 20, 512 << 10, None]


def test_rates_above_the_word_are_read_from_the_extended_fields() -> None:
    (found,) = memory_devices(device(speed=0xFFFF, configured=0xFFFF) + END)
    assert (found.module.data_rate_mts, found.module.configured_mts) == (8800, 9200)


def test_firmware_that_says_nothing_gives_none_not_a_number() -> None:
    table = device(kind=0x02, width=0xFFFF, speed=0, configured=0).replace(b"Crucial", b"Unknown")
    (found,) = memory_devices(table + END)
    module = found.module
    assert (module.kind, module.data_rate_mts, module.configured_mts, module.manufacturer) == (None,) * 4
    assert found.data_width_bits is None
    assert theoretical_gbs([found]) is None


def test_a_table_of_an_old_smbios_ends_before_the_new_fields() -> None:
    body = struct.pack("<HHHHHBBBBBHH", 0x10, 0xFFFE, 64, 64, 4096, 9, 0, 1, 0, 0x18, 0x80, 1600)
    (found,) = memory_devices(structure(17, 1, body, "DIMM 0") + END)
    assert (found.module.kind, found.module.configured_mts, found.module.part_number) == ("DDR3", None, None)
    assert theoretical_gbs([found]) == pytest.approx(12.8)


def test_memory_of_a_graphics_array_is_not_system_memory() -> None:
    table = array(0x10) + array(0x20, use=4) + device(handle=1) + device(handle=2, parent=0x20)
    assert len(memory_devices(table + END)) == 1


@pytest.mark.parametrize(
    ("locators", "gbs"),
    [
        (["Controller0-ChannelA-DIMM0", "Controller1-ChannelA-DIMM0"], 76.8),
        (["P0 CHANNEL A", "P0 CHANNEL B"], 76.8),
        (["ChannelA-DIMM0", "ChannelA-DIMM1"], 38.4),  # two modules share one channel's wires
        (["P0_Node0_Channel0_Dimm0", "P0_Node1_Channel0_Dimm0"], 76.8),
        (["DIMM 0", "DIMM 1"], None),  # one channel or two: not told
        (["DIMM 0"], 38.4),
    ],
)
def test_the_theoretical_rate_is_summed_over_channels_only_when_they_are_known(
    locators: list[str], gbs: float | None
) -> None:
    found = memory_devices(b"".join(device(locator) for locator in locators) + END)
    rate = theoretical_gbs(found)
    assert rate == (None if gbs is None else pytest.approx(gbs))


@given(st.integers(min_value=0))
def test_a_table_cut_anywhere_gives_the_devices_before_the_cut(cut: int) -> None:
    whole = array() + device(handle=1) + device(handle=2)
    found = memory_devices(whole[: cut % (len(whole) + 1)])
    assert found == memory_devices(whole)[: len(found)]


@given(st.binary(max_size=400))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    theoretical_gbs(memory_devices(data))
    theoretical_gbs(memory_devices(device()[:20] + data))


def test_an_endless_table_is_bounded() -> None:
    assert len(memory_devices(device() * 20_000)) <= 4096


def machine(root: Path, table: bytes | None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal:       65536000 kB\nMemFree: 1 kB\n")
    if table is not None:
        (root / "sys/firmware/dmi/tables").mkdir(parents=True)
        (root / "sys/firmware/dmi/tables/DMI").write_bytes(table)
    return root


def test_a_readable_table_makes_the_memory_known(tmp_path: Path) -> None:
    facts = read_memory(machine(tmp_path, array() + device() + END))
    assert facts.known
    assert facts.total_bytes == 65536000 * 1024
    assert [module.kind for module in facts.modules] == ["DDR5"]
    assert facts.theoretical_gbs == pytest.approx(38.4)


def test_no_table_is_unknown_with_the_reason(tmp_path: Path) -> None:
    facts = read_memory(machine(tmp_path, None))
    assert (facts.known, facts.modules, facts.theoretical_gbs) == (False, (), None)
    assert "is not there" in facts.evidence


def test_a_table_without_modules_is_unknown_too(tmp_path: Path) -> None:
    assert "describes no populated memory device" in read_memory(machine(tmp_path, END)).evidence


def test_a_table_only_root_may_read_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    machine(tmp_path, END)
    (tmp_path / "sys/firmware/dmi/tables/DMI").chmod(0)
    assert "only be read by root" in read_memory(tmp_path).evidence


def test_a_table_that_fails_to_read_says_why(tmp_path: Path) -> None:
    machine(tmp_path, None)
    (tmp_path / "sys/firmware/dmi/tables/DMI").mkdir(parents=True)
    assert "cannot be read: Is a directory" in read_memory(tmp_path).evidence


def test_this_machine_answers() -> None:
    facts = read_memory()
    assert facts.total_bytes
    assert facts.evidence
    assert facts.known == bool(facts.modules)


def test_a_machine_without_meminfo_has_no_total(tmp_path: Path) -> None:
    assert read_memory(tmp_path).total_bytes is None
