"""What can be read of a training beside its loss: memory, how busy the GPU is, the norm of each layer's gradient.

Part of the train worker.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
import time
from collections import defaultdict
from typing import Any

import psutil
import torch

from core.env.host import read_host
from core.train.gpu_gauge import GpuGauge
from core.train.headroom import Room, host_rooms

_ASK_GPU_S = 1.0  # NVML averages its figures over up to a second
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class Gauges:
    """Reads memory at every call and the GPU's load once a second."""

    def __init__(self, device: str) -> None:
        self._on_gpu = device == "cuda"
        self._process = psutil.Process()
        self._gpu = GpuGauge(_bus_id() if self._on_gpu else None)
        self._load: dict[str, float] = {}
        self._asked = -_ASK_GPU_S

    def read(self) -> dict[str, float]:
        """Return sizes in bytes and the GPU's load by name; what cannot be read is left out."""
        told: dict[str, float] = {"rss_bytes": self._process.memory_info().rss}
        if self._on_gpu:
            told |= {"cuda_bytes": torch.cuda.memory_allocated(), "cuda_peak_bytes": torch.cuda.max_memory_allocated()}
            if time.monotonic() - self._asked >= _ASK_GPU_S:
                self._asked = time.monotonic()
                self._load = self._gpu.read()
        return {**told, **self._load}

    def rooms(self) -> list[Room]:
        """Return the memory that is left here, and on the GPU where it is trained on.

        What torch has taken from the driver and did not need at its peak counts as left.
        """
        rooms = host_rooms()
        if self._on_gpu:
            free, total = torch.cuda.mem_get_info()
            reserved, peak = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
            rooms.append(Room("GPU", free + reserved - peak, total, peak))
        return rooms


def free_caches() -> None:
    """Give back what Python, torch and the heap keep without need; no weight and no random generator changes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)


def device_name(device: str) -> str:
    """Return what is trained on, by its maker's name."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return read_host().cpu_model or "CPU"


def layer_grad_norms(model: torch.nn.Module, clipped_by: float) -> dict[str, float]:
    """Return each layer's gradient norm before it was multiplied by `clipped_by`; one wait for the GPU, not one a layer."""
    gradients = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found = _LAYER.search(name)
            gradients[found.group(1) if found else "other"].append(parameter.grad)
    norms = [torch.linalg.vector_norm(torch.stack(torch._foreach_norm(each))) for each in gradients.values()]
    if not norms:
        return {}
    return dict(zip(gradients, (torch.stack(norms) / clipped_by).tolist(), strict=True))


def clipped_by(norm: float, max_norm: float) -> float:
    """Return what torch.nn.utils.clip_grad_norm_ multiplied the gradients by."""
    return min(1.0, max_norm / (norm + 1e-6))


def _bus_id() -> str:
    told: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    return f"{told.pci_domain_id:08X}:{told.pci_bus_id:02X}:{told.pci_device_id:02X}.0"
