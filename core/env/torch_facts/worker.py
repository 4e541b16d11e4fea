"""Reads what torch can use here; imports torch only where that can tell more than torch/version.py."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from typing import Any

from core.env.torch_build import Build, TorchDevice, TorchFacts, read_build

_MATTERS = re.compile(r"\b(CUDA|HIP|NVIDIA)\b")


def read(_argument: dict[str, Any]) -> TorchFacts:
    """Return torch's build, its compiled architectures and the GPUs it can use."""
    build = read_build()
    if build is None or (build.kind == "CPU" and sys.platform != "darwin"):
        return TorchFacts(build=build)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        return _ask(build, said)


def _ask(build: Build, said: list[warnings.WarningMessage]) -> TorchFacts:
    torch: Any = importlib.import_module("torch")
    devices: tuple[TorchDevice, ...] = ()
    failure = None
    try:
        if torch.cuda.is_available():
            devices = tuple(_device(torch, index) for index in range(torch.cuda.device_count()))
        elif build.kind in {"CUDA", "ROCm"}:
            torch.cuda.init()  # raises what is_available() only swallows
    except (RuntimeError, AssertionError) as error:
        failure = str(error)
    words = [failure] if failure else [str(each.message) for each in said if _MATTERS.search(str(each.message))]
    return TorchFacts(
        build=build,
        imported=True,
        arch_list=tuple(torch.cuda.get_arch_list()),
        devices=devices,
        mps=torch.backends.mps.is_available(),
        said=" ".join(" ".join(words).split())[:400] or None,
    )


def _device(torch: Any, index: int) -> TorchDevice:
    facts = torch.cuda.get_device_properties(index)
    return TorchDevice(
        name=facts.name,
        capability=f"{facts.major}.{facts.minor}",
        memory_total_mib=facts.total_memory >> 20,
        bf16=bool(torch.version.hip) or facts.major >= 8,  # as torch.cuda.is_bf16_supported without emulation
    )
