"""Which preset of configs/presets a machine gets. What a preset is and how it lies under a profile: core/train/presets.py."""

from __future__ import annotations

import tempfile
from pathlib import Path

from core.config import preset_folders
from core.env.accelerators import NVML_PROBE, gpu_reading
from core.env.probe import Probe, run_probes
from core.errors import EnvironmentFault
from core.train.presets import Preset, files, read

_NVML_S = 10.0  # without persistence mode the driver first wakes each GPU, a second or more each


def presets() -> list[Preset]:
    """Return every preset, shipped and the user's own, by name; BadConfig for a broken one."""
    return [read(path) for path in files(preset_folders()).values()]


def recommended(capability: str | None, memory_mib: int | None) -> Preset | None:
    """Return the narrowest preset for a GPU's compute capability such as "8.6", or for none; None when no preset suits."""
    number = None if capability is None else float(capability)
    suiting = [preset for preset in presets() if preset.by_machine and preset.suits(number, memory_mib)]
    return max(suiting, key=lambda preset: (preset.capability_from, preset.name), default=None)


def for_this_machine(device: str) -> Preset:
    """Return the preset for where `train.device` trains here; EnvironmentFault when there is no such place or preset.

    The driver is asked in a process of its own.
    """
    capability, memory_mib = (None, None) if device == "cpu" else _first_gpu()
    if device == "cuda" and capability is None:
        raise EnvironmentFault(
            "train.preset=auto, train.device=cuda: no NVIDIA GPU answers here",
            remedy="See `edgekiln env`, or name a preset: edgekiln train presets",
        )
    if (preset := recommended(capability, memory_mib)) is None:
        raise EnvironmentFault(
            f"train.preset=auto: no preset is for a GPU of compute capability {capability}",
            remedy="Name a preset, or write one: presets/NAME.yaml in the folder of your own profiles.",
        )
    return preset


def _first_gpu() -> tuple[str | None, int | None]:
    probe = Probe(name=NVML_PROBE, target="core.env.gpu:read", timeout_s=_NVML_S)
    with tempfile.TemporaryDirectory(prefix="edgekiln-env-") as scratch:
        reading = gpu_reading(run_probes([probe], Path(scratch)))
    gpu = next((gpu for gpu in reading.gpus if gpu.error is None), None)
    return (gpu.compute_capability, gpu.memory_total_mib) if gpu else (None, None)
