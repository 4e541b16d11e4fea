"""The processor as /proc/cpuinfo tells it: model and the features llama.cpp has kernels for. Pure functions over text."""

from __future__ import annotations

# Features with kernels of their own in ggml-cpu (ggml/src/ggml-cpu/CMakeLists.txt), spelled as the kernel spells them.
_X86 = "sse3 ssse3 sse4_2 avx avx2 avx_vnni bmi2 f16c fma avx512f avx512bw avx512vl avx512vbmi avx512_vnni avx512_bf16"
_X86_TILES = "amx_tile amx_int8 amx_bf16"
_ARM_FEATURES = "asimd fphp asimdhp asimddp i8mm bf16 sve sve2 sme"
FEATURES = tuple(f"{_X86} {_X86_TILES} {_ARM_FEATURES}".split())

# Without these llama.cpp falls back to far slower kernels: every x86 quantised dot product is written for AVX2 with FMA and
# F16C, every Arm one for the dot product (ggml/src/ggml-cpu/arch/x86/quants.c, arch/arm/quants.c).
_WANTED = {"x86_64": ("avx2", "fma", "f16c"), "aarch64": ("asimddp",), "arm64": ("asimddp",)}

# Arm's main ID register, part numbers of implementer 0x41 (linux/arch/arm64/include/asm/cputype.h).
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
_ARM = "0x41"


def model_of(cpuinfo: str) -> str | None:
    """Return the processor's name; several kinds of cores are joined by ' + '. None when the text tells none."""
    fields = _fields(cpuinfo)
    if named := _unique(fields, "model name"):
        return " + ".join(named)
    makers = _unique(fields, "CPU implementer")
    parts = [_part_name(makers, part) for part in _unique(fields, "CPU part")]
    return " + ".join(parts) or None


def _part_name(makers: list[str], part: str) -> str:
    if makers == [_ARM]:
        return _ARM_PARTS.get(part, f"Arm part {part}")
    return f"implementer {'/'.join(makers)} part {part}"


def features_of(cpuinfo: str) -> tuple[str, ...]:
    """Return the features every core has, in the order of FEATURES."""
    per_core = [set(value.split()) for name, value in _fields(cpuinfo) if name in {"flags", "Features"}]
    common = set.intersection(*per_core) if per_core else set()
    if "pni" in common:  # the kernel's old name
        common.add("sse3")
    return tuple(name for name in FEATURES if name in common)


def _fields(cpuinfo: str) -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in cpuinfo.splitlines() if ":" in line)
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _unique(fields: list[tuple[str, str]], wanted: str) -> list[str]:
    return list(dict.fromkeys(value for name, value in fields if name == wanted and value))


def missing_features(arch: str, features: tuple[str, ...]) -> tuple[str, ...]:
    """Return the features whose lack makes llama.cpp slow; none for an unknown architecture or unread features."""
    return tuple(name for name in _WANTED.get(arch, ()) if features and name not in features)
