"""How busy one NVIDIA GPU is while a training runs on it, as NVML tells it; nothing where there is no NVML."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any


class GpuGauge:
    """Reads utilisation, power and temperature of the GPU on a PCI bus address such as "00000000:01:00.0"."""

    def __init__(self, bus_id: str | None) -> None:
        found = _handle(bus_id) if bus_id else (None, None)
        self._nvml: Any = found[0]
        self._handle: Any = found[1]

    def read(self) -> dict[str, float]:
        """Return what this GPU tells: `gpu_utilisation` as a share of 1, `gpu_power_w`, `gpu_temperature_c`."""
        nvml = self._nvml
        if nvml is None:
            return {}
        asked: dict[str, Callable[[], float]] = {
            "gpu_utilisation": lambda: nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu / 100,
            "gpu_power_w": lambda: nvml.nvmlDeviceGetPowerUsage(self._handle) / 1000,
            "gpu_temperature_c": lambda: float(nvml.nvmlDeviceGetTemperature(self._handle, nvml.NVML_TEMPERATURE_GPU)),
        }
        told = {}
        for name, ask in asked.items():
            with contextlib.suppress(nvml.NVMLError):  # a GPU need not tell everything: power is not told by small ones
                told[name] = ask()
        return told


def _handle(bus_id: str) -> tuple[Any, Any]:
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found = pynvml.nvmlDeviceGetPciInfo(handle).busId
            if (found.decode() if isinstance(found, bytes) else found).lower() == bus_id.lower():
                return pynvml, handle
    except pynvml.NVMLError:
        return None, None
    return None, None
