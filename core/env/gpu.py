"""Accelerators as drivers tell them: NVIDIA through NVML, AMD through the kernel's KFD. Judged in accelerators.py.

Importable, and runs, without any driver: what could not be read is told as evidence.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

from core.contract import Contract

_KFD = Path("/sys/class/kfd/kfd/topology/nodes")
_MIB = 1 << 20
_LIBRARY = "libnvidia-ml.so.1"
# nvml.h, nvmlClocksEventReasons: those that slow a GPU against its owner's will. Idle, applications' clocks and sync boost
# are somebody's choice, and the software power cap is what every busy GPU meets.
_THROTTLES = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
# nvml.h, nvmlGpuTopologyLevel
_PATHS = {
    0: "on one board",
    10: "one PCIe switch",
    20: "several PCIe switches",
    30: "one host bridge",
    40: "one NUMA node",
    50: "across NUMA nodes",
}


class Gpu(Contract):
    """One NVIDIA GPU; None where its driver does not say. ECC counts are of uncorrected errors.

    `ecc_volatile` counts since the driver was loaded, `ecc_aggregate` since the GPU was made. `error` says why a GPU that
    is there cannot be read.
    """

    index: int
    name: str
    bus_id: str | None = None
    memory_total_mib: int | None = None
    memory_free_mib: int | None = None
    compute_capability: str | None = None
    ecc_enabled: bool | None = None
    ecc_volatile: int | None = None
    ecc_aggregate: int | None = None
    throttled_by: tuple[str, ...] | None = None
    power_limit_w: float | None = None
    power_default_w: float | None = None
    error: str | None = None

    @property
    def bf16(self) -> bool | None:
        """Whether it multiplies bfloat16 itself: from compute capability 8.0 on (CUDA C++ Programming Guide, table 'Arithmetic')."""
        return None if self.compute_capability is None else int(self.compute_capability.split(".")[0]) >= 8


class Link(Contract):
    """How two GPUs reach each other, by their indices."""

    first: int
    second: int
    path: str


class AmdGpu(Contract):
    """One AMD GPU of the kernel's compute driver; `target` is its gfx name."""

    target: str
    memory_total_mib: int | None


class GpuReading(Contract):
    """What could be read; `evidence` says from where, or why nothing.

    `lacks` is what keeps NVML from answering: its Python binding, its library (which comes with the driver), a driver that
    works, or an answer before the probe ended. `cuda` is the highest CUDA version the driver knows.
    """

    gpus: tuple[Gpu, ...] = ()
    links: tuple[Link, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    amd: tuple[AmdGpu, ...] = ()
    lacks: Literal["binding", "library", "driver", "answer"] | None = None
    evidence: str


def read(_argument: dict[str, Any]) -> GpuReading:
    """Ask NVML and the kernel for this machine's GPUs; none, and a driver that does not work, are answers."""
    return _nvidia().model_copy(update={"amd": amd_gpus(_KFD)})


def _nvidia() -> GpuReading:
    try:
        import pynvml
    except ImportError:
        return GpuReading(lacks="binding", evidence="nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if not isinstance(error, pynvml.NVMLError_LibraryNotFound):
            return GpuReading(lacks="driver", evidence=f"NVML: {error}")
        why = unloadable()
        return GpuReading(lacks="driver" if why else "library", evidence=f"{_LIBRARY}: {why or error}")
    try:
        return _ask(pynvml)
    except pynvml.NVMLError as error:
        return GpuReading(lacks="driver", evidence=f"NVML: {error}")
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def unloadable() -> str | None:
    """Return the loader's word on a library that is there and cannot be loaded; None where there is none.

    pynvml tells both as "not found". dlopen(3) says "No such file" of one that is nowhere on the loader's path.
    """
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError as error:
        return None if f"{_LIBRARY}: cannot open shared object file: No such file" in str(error) else str(error)
    return None


def _ask(nvml: Any) -> GpuReading:
    driver = _told(nvml, nvml.nvmlSystemGetDriverVersion)
    cuda = _told(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
    handles = dict(_handles(nvml))
    gpus = tuple(
        handle if isinstance(handle, Gpu) else _gpu(nvml, index, handle) for index, handle in sorted(handles.items())
    )
    usable = {index: handle for index, handle in handles.items() if not isinstance(handle, Gpu)}
    return GpuReading(
        gpus=gpus,
        links=tuple(_links(nvml, usable)),
        driver=driver,
        cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        evidence=f"NVML of driver {driver}: {'; '.join(map(_line, gpus)) or 'no GPU'}",
    )


def _handles(nvml: Any) -> Iterator[tuple[int, Any]]:
    """Yield each GPU's handle by its index, or a Gpu with an error for one that gives none."""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            yield index, nvml.nvmlDeviceGetHandleByIndex(index)
        except nvml.NVMLError as error:
            yield index, Gpu(index=index, name=f"GPU {index}", error=str(error))


def _gpu(nvml: Any, index: int, handle: Any) -> Gpu:
    def told(function: Callable[..., Any], *arguments: Any) -> Any:
        return _told(nvml, function, handle, *arguments)

    memory, capability = told(nvml.nvmlDeviceGetMemoryInfo), told(nvml.nvmlDeviceGetCudaComputeCapability)
    ecc, reasons = told(nvml.nvmlDeviceGetCurrentEccMode), told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    limit, default = told(nvml.nvmlDeviceGetEnforcedPowerLimit), told(nvml.nvmlDeviceGetPowerManagementDefaultLimit)
    pci, uncorrected = told(nvml.nvmlDeviceGetPciInfo), nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    counts = (nvml.NVML_VOLATILE_ECC, nvml.NVML_AGGREGATE_ECC) if ecc else ()
    volatile, aggregate = [told(nvml.nvmlDeviceGetTotalEccErrors, uncorrected, kind) for kind in counts] or (None, None)
    return Gpu(
        index=index,
        name=told(nvml.nvmlDeviceGetName) or f"GPU {index}",
        bus_id=pci and _text(pci.busId),
        memory_total_mib=memory and memory.total // _MIB,
        memory_free_mib=memory and memory.free // _MIB,
        compute_capability=capability and f"{capability[0]}.{capability[1]}",
        ecc_enabled=None if ecc is None else bool(ecc),
        ecc_volatile=volatile,
        ecc_aggregate=aggregate,
        throttled_by=None if reasons is None else throttles(reasons),
        power_limit_w=limit and limit / 1000,
        power_default_w=default and default / 1000,
        error=_lost(nvml, handle),
    )


def throttles(reasons: int) -> tuple[str, ...]:
    """Name what slows a GPU down, from NVML's bits of clock event reasons."""
    return tuple(name for bit, name in _THROTTLES.items() if reasons & bit)


def _lost(nvml: Any, handle: Any) -> str | None:
    """Return why a GPU cannot be used although it has a handle; a question it may not answer (MIG) is no such reason."""
    try:
        nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        gone = {nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_RESET_REQUIRED, nvml.NVML_ERROR_UNKNOWN}
        return str(error) if error.value in gone else None
    return None


def _links(nvml: Any, handles: dict[int, Any]) -> Iterator[Link]:
    for first, second in combinations(sorted(handles), 2):
        one, other = handles[first], handles[second]
        nvlink = _told(nvml, nvml.nvmlDeviceGetP2PStatus, one, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
        level = _told(nvml, nvml.nvmlDeviceGetTopologyCommonAncestor, one, other)
        if nvlink == nvml.NVML_P2P_STATUS_OK:
            yield Link(first=first, second=second, path="NVLink")
        elif level is not None:
            yield Link(first=first, second=second, path=_PATHS.get(level, f"level {level}"))


def _told(nvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Ask one thing; None where this GPU or this driver does not say."""
    try:
        answer = function(*arguments)
    except nvml.NVMLError:
        return None
    return _text(answer) if isinstance(answer, bytes) else answer


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _line(gpu: Gpu) -> str:
    if gpu.error is not None:
        return f"{gpu.name} cannot be read: {gpu.error}"
    memory = "" if gpu.memory_total_mib is None else f", {gpu.memory_free_mib} of {gpu.memory_total_mib} MiB free"
    return f"{gpu.name}, compute capability {gpu.compute_capability}{memory}"


def amd_gpus(nodes: Path) -> tuple[AmdGpu, ...]:
    """Return the AMD GPUs among the nodes of the kernel's compute driver; processors are nodes too, without SIMD units.

    `gfx_target_version` is major * 10000 + minor * 100 + stepping (Linux, drivers/gpu/drm/amd/amdkfd/kfd_topology.c).
    """
    found = []
    for node in sorted(nodes.glob("*")):
        facts = _properties(node / "properties")
        if facts.get("simd_count", 0) and (version := facts.get("gfx_target_version", 0)):
            target = f"gfx{version // 10000}{version % 10000 // 100:x}{version % 100:x}"
            heaps = [_properties(bank).get("size_in_bytes", 0) for bank in node.glob("mem_banks/*/properties")]
            found.append(AmdGpu(target=target, memory_total_mib=max(heaps, default=0) // _MIB or None))
    return tuple(found)


def _properties(path: Path) -> dict[str, int]:
    try:
        words = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return {}
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[1].isdecimal()}
