"""What a failed computation was: memory that ran out, or a GPU or its driver that failed. Told by what the libraries say."""

from __future__ import annotations

import re
from pathlib import Path

from core.errors import EdgekilnError, GpuFault, OutOfMemory, ProcessFailed, ToolMissing
from core.process import capture

# torch 2.x: c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp, aten/src/ATen/cuda/Exceptions.cpp
_MEMORY = re.compile(
    r"out of memory|CUDA_ERROR_OUT_OF_MEMORY|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.I
)
_GPU = re.compile(r"CUDA (driver )?error|CUDNN_STATUS|CUBLAS_STATUS|CUSOLVER|NCCL error|uncorrectable ECC|Xid", re.I)
_XID = re.compile(r"^\[ *(\d+\.\d+)\] (NVRM: Xid.*)", re.M)
_LOG_S = 5.0
_DRIFT_S = 60.0  # the log's clock is not slewed as the monotonic one is, and runs from it by seconds in weeks


def fault_of(error: BaseException) -> EdgekilnError | None:
    """Return what a worker ends with for an error of its libraries, None where it is of neither kind."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, MemoryError) or _MEMORY.search(said):
        return OutOfMemory(
            f"memory ran out while training: {said}",
            remedy="Lower train.max_length or train.lora.r, choose a smaller student, or end what else holds memory.",
        )
    if _GPU.search(said):
        return GpuFault(
            f"the GPU failed: {said}",
            remedy="Read the kernel's log (dmesg, NVRM lines), reset or replace the GPU, then run the same command again.",
        )
    return None


def xid(since_s: float) -> str | None:
    """Return the newest Xid line of the kernel's log since a time of the monotonic clock.

    None where there is none, the log may not be read, or it tells no times: an older fault is not the cause of this one.
    """
    try:
        log = capture(["dmesg"], timeout_s=_LOG_S)
    except (ProcessFailed, ToolMissing):
        return None
    found = [line.strip() for at_s, line in _XID.findall(log) if float(at_s) >= since_s - _DRIFT_S]
    return found[-1] if found else None


def memory_kills(vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """Return how many processes the kernel killed for want of memory since it started, None where it does not say.

    A container's limit counts as well (Linux, mm/oom_kill.c, OOM_KILL).
    """
    try:
        told = re.search(r"^oom_kill (\d+)$", vmstat.read_text(encoding="ascii"), re.M)
    except OSError:
        return None
    return int(told.group(1)) if told else None
