"""A pure parser of SMBIOS tables for memory: arrays (type 16) and devices (type 17). Reads no file.

Source of offsets and codes: DMTF DSP0134 (SMBIOS 3.7), sections 6.1, 7.17 and 7.18.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from core.nouns import MemoryModule

MAX_TABLE_BYTES = 1 << 20
_MAX_STRUCTURES = 4096
_END_OF_TABLE = 127
_SYSTEM_MEMORY = 3
_KINDS = {
    0x12: "DDR",
    0x13: "DDR2",
    0x18: "DDR3",
    0x1A: "DDR4",
    0x1B: "LPDDR",
    0x1C: "LPDDR2",
    0x1D: "LPDDR3",
    0x1E: "LPDDR4",
    0x20: "HBM",
    0x21: "HBM2",
    0x22: "DDR5",
    0x23: "LPDDR5",
    0x24: "HBM3",
}
# Firmware writes these where it has nothing to say.
_BLANKS = {"", "unknown", "not specified", "none", "no dimm", "to be filled by o.e.m.", "undefined", "n/a"}
_CONTROLLER = re.compile(r"(?:controller|mc|node|cpu|p(?:roc)?)[ _-]*(\d+)", re.IGNORECASE)
_CHANNEL = re.compile(r"ch(?:annel|an)?[ _-]*([a-z]|\d+)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Device:
    """A populated memory device; `channel` is read from its locators, None where they name none."""

    module: MemoryModule
    data_width_bits: int | None
    channel: str | None


@dataclass(frozen=True)
class _Structure:
    kind: int
    handle: int
    data: bytes
    strings: tuple[str, ...]

    def number(self, offset: int, size: int) -> int | None:
        """Return a little-endian field, None when the structure ends before it."""
        field = self.data[offset : offset + size]
        return int.from_bytes(field, "little") if len(field) == size else None

    def text(self, offset: int) -> str | None:
        """Return the string a field points at, None when it is blank."""
        index = self.number(offset, 1)
        if not index or index > len(self.strings):
            return None
        value = self.strings[index - 1].strip()
        return None if value.lower() in _BLANKS else value


def memory_devices(table: bytes) -> list[Device]:
    """Return the populated devices of the system memory in a table; a table that ends early gives those before."""
    structures = list(_structures(table[:MAX_TABLE_BYTES]))
    other = {s.handle for s in structures if s.kind == 16 and s.number(0x05, 1) not in {None, _SYSTEM_MEMORY}}
    devices = (s for s in structures if s.kind == 17 and s.number(0x04, 2) not in other)
    return [_device(structure, size) for structure in devices if (size := _size_bytes(structure)) != 0]


def _structures(table: bytes) -> Iterator[_Structure]:
    position = 0
    for _ in range(_MAX_STRUCTURES):
        header = table[position : position + 4]
        if len(header) < 4 or header[1] < 4 or header[0] == _END_OF_TABLE:
            return
        end = position + header[1]
        stop = table.find(b"\0\0", end)
        if stop < 0:
            return
        strings = tuple(part.decode("latin-1") for part in table[end:stop].split(b"\0"))
        yield _Structure(header[0], int.from_bytes(header[2:4], "little"), table[position:end], strings)
        position = stop + 2


def _device(structure: _Structure, size_bytes: int | None) -> Device:
    width = structure.number(0x0A, 2)
    return Device(
        module=MemoryModule(
            kind=_KINDS.get(structure.number(0x12, 1) or 0),
            bytes=size_bytes,
            data_rate_mts=_rate_mts(structure, 0x15, 0x54),
            configured_mts=_rate_mts(structure, 0x20, 0x58),
            manufacturer=structure.text(0x17),
            part_number=structure.text(0x1A),
        ),
        data_width_bits=None if width in {None, 0, 0xFFFF} else width,
        channel=_channel(structure.text(0x10), structure.text(0x11)),
    )


def _size_bytes(structure: _Structure) -> int | None:
    """Return a device's size, 0 for an empty slot, None when unknown."""
    size = structure.number(0x0C, 2)
    if size is None or size == 0xFFFF:
        return None
    if size == 0x7FFF:
        extended = structure.number(0x1C, 4)
        return None if not extended else (extended & 0x7FFF_FFFF) << 20
    return (size & 0x7FFF) << (10 if size & 0x8000 else 20)


def _rate_mts(structure: _Structure, offset: int, extended: int) -> int | None:
    rate = structure.number(offset, 2)
    if rate == 0xFFFF:
        rate = structure.number(extended, 4)
    return rate or None


def _channel(locator: str | None, bank: str | None) -> str | None:
    text = f"{bank or ''} {locator or ''}"
    channel = _CHANNEL.search(text)
    if channel is None:
        return None
    return "/".join([*_CONTROLLER.findall(text), channel[1].upper()])


def theoretical_gbs(devices: list[Device]) -> float | None:
    """Return the sum of rate times width over the channels, in GB/s (1e9).

    None when a rate or a width is not known, or when several devices do not say on which channel they are: two modules
    on one channel share its wires.
    """
    if not devices or (len(devices) > 1 and any(device.channel is None for device in devices)):
        return None
    widths: dict[str | None, int] = {}
    rates: dict[str | None, int] = {}
    for device in devices:
        rate = device.module.configured_mts or device.module.data_rate_mts
        if rate is None or device.data_width_bits is None:
            return None
        widths[device.channel] = max(device.data_width_bits, widths.get(device.channel, 0))
        rates[device.channel] = min(rate, rates.get(device.channel, rate))
    return sum(rates[channel] * widths[channel] / 8 for channel in widths) / 1000
