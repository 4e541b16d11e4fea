"""Multiplies square matrices on each device in each dtype and times it: a probe's child, the only module here with torch."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from core.env.matmul.reading import Multiplications, Multiplied

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SLOW_SIZE = 256  # most processors have no half-precision units: there one repetition of 1024 rows takes seconds
_WARM_UPS = 2
_LEAST = 3  # repetitions


def read(argument: dict[str, Any]) -> Multiplications:
    """Measure each device and dtype for `seconds`; matrices of `cpu_size` rows on the processor, `gpu_size` elsewhere."""
    told = [
        _multiply(device, dtype, _size(device, dtype, argument), argument["seconds"])
        for device in _devices()
        for dtype in _DTYPES
    ]
    return Multiplications(torch=torch.__version__, results=tuple(told))


def _size(device: torch.device, dtype: torch.dtype, argument: dict[str, Any]) -> int:
    if device.type != "cpu":
        return int(argument["gpu_size"])
    return min(_SLOW_SIZE, argument["cpu_size"]) if dtype is torch.float16 else int(argument["cpu_size"])


def _devices() -> list[torch.device]:
    found = [torch.device("cpu")]
    found += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [*found, *([torch.device("mps")] if torch.backends.mps.is_available() else [])]


def _multiply(device: torch.device, dtype: torch.dtype, size: int, seconds: float) -> Multiplied:
    name = f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)
    times: list[float] = []
    error = None
    try:
        # the same numbers every time; their values change neither the work nor, on any device here, its time
        matrix = (torch.arange(size * size, device=device) % 7 / 7).reshape(size, size).to(dtype)
        times = _times(lambda: matrix @ matrix, _synchroniser(device), seconds)
    except (RuntimeError, TypeError) as refused:  # torch's own errors, out of memory among them
        error = " ".join(str(refused).split())[:300]
    rate = 2 * size**3 / 1e12
    return Multiplied(
        device=name,
        dtype=str(dtype).removeprefix("torch."),
        size=size,
        repetitions=len(times),
        best_tflops=rate / min(times) if times else None,
        median_tflops=rate / statistics.median(times) if times else None,
        error=error,
    )


def _times(multiply: Callable[[], object], synchronise: Callable[[], None], seconds: float) -> list[float]:
    for _ in range(_WARM_UPS):
        multiply()
    synchronise()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _LEAST or time.perf_counter() - started < seconds:
        begun = time.perf_counter()
        multiply()
        synchronise()
        times.append(time.perf_counter() - begun)
    return times


def _synchroniser(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return torch.mps.synchronize if device.type == "mps" else lambda: None
