"""llama-bench's argument list, a pure parser of what it prints, and how its numbers were obtained. Starts nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from core.contract import Contract, Origin

# An output of a whole night has a few hundred rows of about 1.5 KB; more than this is no llama-bench output.
MAX_OUTPUT_BYTES = 16 << 20

_X86_NAMES = re.compile(r"\b(AMD|Intel|EPYC|Ryzen|Xeon|Pentium|Celeron|Threadripper)\b", re.IGNORECASE)
_SAME_CPU = ({"x86_64", "i686", "i386"}, {"aarch64", "armv7l", "armv6l", "arm"})
# e_machine of the ELF header: System V ABI, chapter 4
_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}


class BenchRow(Contract):
    """One row of llama-bench output as far as edgekiln reads it; `raw` is all of it, fields it does not know included."""

    n_prompt: int
    n_gen: int
    n_depth: int
    n_threads: int | None
    flash_attn: int | None
    cpu_info: str
    samples_tps: tuple[float, ...]
    raw: dict[str, Any]

    @property
    def test(self) -> str:
        """The test's name as the field spells it: pp128, tg32, pp512+tg128, with @d for a depth."""
        return name_of_test(self.n_prompt, self.n_gen, self.n_depth)


def name_of_test(n_prompt: int, n_gen: int, n_depth: int = 0) -> str:
    """Return the name of a test."""
    parts = [f"pp{n_prompt}"] * bool(n_prompt) + [f"tg{n_gen}"] * bool(n_gen)
    return "+".join(parts) + (f"@d{n_depth}" if n_depth else "")


def arguments(gguf: str, n_prompt: int, n_gen: int, repetitions: int, threads: int) -> list[str]:
    """Return llama-bench's arguments for one process start; JSON lines, because a killed process leaves whole rows."""
    sizes = {"-p": n_prompt, "-n": n_gen, "-r": repetitions, "-t": threads}
    return ["-m", gguf, *(word for option, value in sizes.items() for word in (option, str(value))), "-o", "jsonl"]


def parse(output: bytes) -> list[BenchRow]:
    """Read JSON lines, or a JSON array that may lack its end; what is no whole row of a test is left out."""
    text = output[:MAX_OUTPUT_BYTES].decode("utf-8", "replace").strip()
    records = _array(text) if text.startswith("[") else _lines(text)
    return [row for record in records if (row := _row(record)) is not None]


def _lines(text: str) -> Iterator[Any]:
    for line in text.splitlines():
        if line.lstrip().startswith("{"):
            try:
                yield _DECODER.decode(line)
            except (ValueError, RecursionError):
                continue


def _array(text: str) -> Iterator[Any]:
    """Yield the elements before the first one that is not whole: the array is printed while the tests run."""
    position = 1
    while (start := text.find("{", position)) >= 0:
        try:
            record, position = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return
        yield record


def _finite(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)


def _row(record: Any) -> BenchRow | None:
    if not isinstance(record, dict) or not _is_text(record):
        return None
    n_prompt, n_gen = _count(record.get("n_prompt")), _count(record.get("n_gen"))
    if not (n_prompt or n_gen):
        return None
    return BenchRow(
        n_prompt=n_prompt or 0,
        n_gen=n_gen or 0,
        n_depth=_count(record.get("n_depth")) or 0,
        n_threads=_count(record.get("n_threads")),
        flash_attn=_flag(record.get("flash_attn")),
        cpu_info=info if isinstance(info := record.get("cpu_info"), str) else "",
        samples_tps=_samples(record.get("samples_ts")),
        raw=record,
    )


def _is_text(record: dict[str, Any]) -> bool:
    """Tell whether a record can be written as UTF-8; a lone surrogate cannot."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _count(value: Any) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < 1 << 31 else None


def _flag(value: Any) -> int | None:
    """Read flash_attn: a boolean in old builds, -1 (auto), 0 or 1 in new ones."""
    return int(value) if isinstance(value, int) and -1 <= value <= 1 else None


def _samples(value: Any) -> tuple[float, ...]:
    """Read rates; one that is no positive number makes the whole row worthless."""
    if not isinstance(value, list) or not all(type(rate) in {int, float} and 0 < rate < 1e12 for rate in value):
        return ()
    return tuple(float(rate) for rate in value)


def elf_arch(head: bytes) -> str | None:
    """Return the machine a program is for from its first 20 bytes, None when it is no ELF file of a known machine."""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    return _ELF_MACHINES.get(int.from_bytes(head[18:20], "little" if head[5] == 1 else "big"))


def detect_origin(cpu_info: str, device_arch: str, program_arch: str | None) -> Origin:
    """Tell measured from emulated.

    Under qemu-user an ARM program reports the x86 CPU of its host, and a program for another machine than the device's
    can only run in an emulator; "TCG" is qemu's own name for its emulated CPU.
    """
    arches = {device_arch, program_arch or device_arch}
    x86_reported = bool(_X86_NAMES.search(cpu_info))
    foreign = not any(arches <= same for same in _SAME_CPU) and len(arches) > 1
    if foreign or "TCG" in cpu_info or (x86_reported and not arches <= _SAME_CPU[0]):
        return Origin.EMULATED
    return Origin.MEASURED
