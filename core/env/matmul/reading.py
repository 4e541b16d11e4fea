"""What a matrix multiplication told of a device, as a record. Measured in worker.py, without torch here."""

from __future__ import annotations

from pydantic import Field

from core.contract import Contract


class Multiplied(Contract):
    """One device and dtype: the rate of the fastest and of the median repetition in TFLOP/s, or why there is none."""

    device: str
    dtype: str
    size: int = Field(ge=1)
    repetitions: int = Field(ge=0)
    best_tflops: float | None
    median_tflops: float | None
    error: str | None


class Multiplications(Contract):
    """All devices, and the torch that was used."""

    torch: str
    results: tuple[Multiplied, ...]
