"""What torch was built for and what it can use here, as a record. Read by core/env/torch_facts/worker.py, without torch here."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Literal

from core.contract import Contract

_LINE = re.compile(r"^(?P<name>cuda|hip|xpu)\b[^=\n]*=[ \t]*['\"]?(?P<value>[0-9]+(?:\.[0-9]+)*)", re.MULTILINE)


class Build(Contract):
    """What torch/version.py says: the accelerator's library it was compiled against, all None for a CPU build."""

    version: str
    cuda: str | None
    hip: str | None
    xpu: str | None
    path: str

    @property
    def kind(self) -> Literal["CUDA", "ROCm", "XPU", "CPU"]:
        """Name the build."""
        if self.cuda:
            return "CUDA"
        if self.hip:
            return "ROCm"
        return "XPU" if self.xpu else "CPU"


class TorchDevice(Contract):
    """One GPU as torch sees it; `bf16` is whether it multiplies bfloat16 itself."""

    name: str
    capability: str
    memory_total_mib: int
    bf16: bool


class TorchFacts(Contract):
    """What torch can do here; `build` None is no torch.

    `imported` is False where importing it could tell nothing more. `said` are its own words about what is wrong.
    """

    build: Build | None
    imported: bool = False
    arch_list: tuple[str, ...] = ()
    devices: tuple[TorchDevice, ...] = ()
    mps: bool = False
    said: str | None = None


def read_build() -> Build | None:
    """Read torch/version.py without importing torch; None without torch or without that file."""
    try:
        found = metadata.distribution("torch")
        path = Path(str(found.locate_file("torch/version.py")))
        text = path.read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    return parse_build(text, found.version, str(path))


def parse_build(version_py: str, version: str, path: str) -> Build:
    """Read the accelerators out of torch/version.py's text; of a version only its numbers are kept."""
    told = {match["name"]: match["value"] for match in _LINE.finditer(version_py)}
    named = {name: told.get(name) for name in ("cuda", "hip", "xpu")}
    return Build(version=version, path=path, **named)


def runs_on(capability: str, arch_list: tuple[str, ...]) -> bool | None:
    """Whether code compiled for an architecture list runs on a compute capability; None when the list is empty.

    `sm_XY` runs on the same major with the same or a higher minor, `compute_XY` is compiled further for anything not older;
    an `a` or `f` suffix binds it to that very capability or family (CUDA C++ Programming Guide, Compute Capabilities).
    """
    if not arch_list:
        return None
    major, minor = (int(part) for part in capability.split("."))
    return any(_runs(arch, major, minor) for arch in arch_list)


def _runs(arch: str, major: int, minor: int) -> bool:
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch)
    if match is None:
        return False
    built = (int(match[2]), int(match[3]))
    if match[4] == "a":
        return built == (major, minor)
    if match[1] == "sm" or match[4] == "f":
        return built[0] == major and built[1] <= minor
    return built <= (major, minor)
