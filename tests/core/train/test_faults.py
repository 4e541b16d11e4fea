"""What the libraries say of memory that ran out and of GPUs that failed, as they say it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import GpuFault, OutOfMemory
from core.train.faults import fault_of, memory_kills, xid

MEMORY = [
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.21 GiB is free.",
    "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
]
GPU = [
    "CUDA error: an illegal memory access was encountered\nSearch for `cudaErrorIllegalAddress'",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: unspecified launch failure",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA driver error: unknown error",
]


@pytest.mark.parametrize("said", MEMORY)
def test_memory_that_ran_out_is_known_whoever_says_so(said):
    fault = fault_of(RuntimeError(said))
    assert isinstance(fault, OutOfMemory)
    assert said.splitlines()[0] in fault.problem


@pytest.mark.parametrize("said", GPU)
def test_a_gpu_that_failed_is_known_by_its_cause(said):
    fault = fault_of(RuntimeError(said))
    assert isinstance(fault, GpuFault)
    assert fault.problem == f"the GPU failed: {said.splitlines()[0]}"


def test_pythons_own_memory_error_has_no_text_and_a_mistake_is_no_fault():
    assert isinstance(fault_of(MemoryError()), OutOfMemory)
    assert fault_of(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")) is None


def test_the_newest_xid_of_the_kernels_log_since_the_training_began_is_found(tmp_path: Path, monkeypatch):
    lines = [
        "[    1.000000] usb 1-1: new device",
        "[    2.000000] NVRM: Xid (PCI:0000:01:00): 31, pid=9",
        "[86403.250000] NVRM: Xid (PCI:0000:01:00): 79",
    ]
    program = tmp_path / "dmesg"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert xid(86_400.0) == "NVRM: Xid (PCI:0000:01:00): 79"
    assert xid(90_000.0) is None  # a fault of another training is not this one's cause
    program.write_text("#!/bin/sh\necho 'NVRM: Xid (PCI:0000:01:00): 79'\n", encoding="utf-8")
    assert xid(0.0) is None
    program.write_text("#!/bin/sh\necho 'Operation not permitted' >&2; exit 1\n", encoding="utf-8")
    assert xid(0.0) is None


def test_how_often_the_kernel_killed_for_want_of_memory_is_read_where_it_is_told(tmp_path):
    assert (memory_kills() or 0) >= 0
    told = tmp_path / "vmstat"
    told.write_text("oom_group_kill 9\noom_kill 3\n", encoding="utf-8")
    assert memory_kills(told) == 3
    told.write_text("nr_free_pages 7\n", encoding="utf-8")
    assert memory_kills(told) is None
    assert memory_kills(tmp_path / "none") is None
