"""What a failed computation was: memory that ran out, or a GPU or its driver that failed. Told by what the libraries say."""

from __future__ import annotations

import re

from core.errors import EdgekilnError, GpuFault, OutOfMemory, ProcessFailed, ToolMissing
from core.process import capture

# torch 2.x: c10/core/impl/alloc_cpu.cpp, c10/cuda/CUDACachingAllocator.cpp, aten/src/ATen/cuda/Exceptions.cpp
_MEMORY = re.compile(
    r"out of memory|CUDA_ERROR_OUT_OF_MEMORY|can't allocate memory|not enough memory|CUBLAS_STATUS_ALLOC_FAILED", re.I
)
_GPU = re.compile(r"CUDA (driver )?error|CUDNN_STATUS|CUBLAS_STATUS|CUSOLVER|NCCL error|uncorrectable ECC|Xid", re.I)
_XID = re.compile(r"NVRM: Xid.*")
_LOG_S = 5.0


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


def xid() -> str | None:
    """Return the newest Xid line of the kernel's log, None where there is none or it may not be read."""
    try:
        log = capture(["dmesg"], timeout_s=_LOG_S)
    except (ProcessFailed, ToolMissing):
        return None
    found = _XID.findall(log)
    return found[-1].strip() if found else None
