"""The processor's parsers, on recorded /proc/cpuinfo texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.env.cpu import FEATURES, features_of, model_of

INTEL = """\
processor	: 0
vendor_id	: GenuineIntel
cpu family	: 6
model		: 151
model name	: 12th Gen Intel(R) Core(TM) i7-12700K
stepping	: 2
cpu MHz		: 3600.000
cache size	: 25600 KB
flags		: fpu vme de pse tsc msr pae mce cx8 sse sse2 ss ht syscall nx pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 \
movbe popcnt aes xsave avx f16c rdrand bmi1 avx2 bmi2 erms avx_vnni
bugs		: spectre_v1 spectre_v2

processor	: 1
vendor_id	: GenuineIntel
model name	: 12th Gen Intel(R) Core(TM) i7-12700K
flags		: fpu vme de pse tsc msr pae mce cx8 sse sse2 ss ht syscall nx pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2 \
movbe popcnt aes xsave avx f16c rdrand bmi1 avx2 bmi2 erms avx_vnni
"""

PI5 = """\
processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

processor	: 1
BogoMIPS	: 108.00
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x4
CPU part	: 0xd0b
CPU revision	: 1

Revision	: d04170
Serial		: 0123456789abcdef
Model		: Raspberry Pi 5 Model B Rev 1.0
"""

PI4 = """\
processor	: 0
BogoMIPS	: 108.00
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x0
CPU part	: 0xd08
CPU revision	: 3

Revision	: c03114
Serial		: 10000000abcdef01
Model		: Raspberry Pi 4 Model B Rev 1.4
"""

# A big.LITTLE board: the small cores lack the dot product, so it cannot be counted on.
BIG_LITTLE = """\
processor	: 0
Features	: fp asimd evtstrm crc32 cpuid
CPU implementer	: 0x41
CPU part	: 0xd03

processor	: 1
Features	: fp asimd evtstrm crc32 cpuid asimddp
CPU implementer	: 0x41
CPU part	: 0xd0b
"""


@pytest.mark.parametrize(
    ("text", "model"),
    [
        (INTEL, "12th Gen Intel(R) Core(TM) i7-12700K"),
        (PI5, "Cortex-A76"),
        (PI4, "Cortex-A72"),
        (BIG_LITTLE, "Cortex-A53 + Cortex-A76"),
        ("CPU implementer : 0x41\nCPU part : 0xfff\n", "Arm part 0xfff"),
        ("CPU implementer : 0x61\nCPU part : 0x022\n", "implementer 0x61 part 0x022"),
        ("", None),
    ],
)
def test_the_model_is_named_as_people_know_it(text: str, model: str | None) -> None:
    assert model_of(text) == model


@pytest.mark.parametrize(
    ("text", "there", "absent"),
    [
        (INTEL, {"sse3", "avx2", "fma", "f16c", "avx_vnni"}, {"avx512f", "asimd"}),
        (PI5, {"asimd", "asimddp", "fphp"}, {"i8mm", "sve"}),
        (PI4, {"asimd"}, {"asimddp", "fphp"}),
        (BIG_LITTLE, {"asimd"}, {"asimddp"}),
    ],
)
def test_only_features_every_core_has_are_counted(text: str, there: set[str], absent: set[str]) -> None:
    found = set(features_of(text))

    assert there <= found
    assert not absent & found


@given(st.text())
def test_any_text_gives_an_answer(text: str) -> None:
    assert set(features_of(text)) <= set(FEATURES)
    assert model_of(text) is None or model_of(text)
