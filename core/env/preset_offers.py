"""The presets beside a profile and this machine: what a training with each needs, and whether it would fit here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from core import catalogue, config
from core.config import TrainConfig
from core.contract import Contract
from core.env.accelerators import NVML_PROBE, gpu_reading
from core.env.capability import Readings, value_of
from core.env.fit import Room, gpu_room, ram_room
from core.env.machine.system import ThisMachine
from core.env.memory_need import TOLERANCE, Job, training_need
from core.env.presets import presets, recommended
from core.env.probe import Probe, run_probes
from core.env.student import StudentReading, StudentRequest
from core.events import OnEvent, ignore
from core.shape import ModelShape
from core.train.presets import Preset

_SYSTEM, _STUDENT = "machine.system", "student"
_LOCAL_S = 20.0
_GIB = 1 << 30


class Offer(Contract):
    """A preset under a profile's own settings.

    `need_bytes` is the estimated peak where it is for, None for a student of unknown shape; `fits` says whether it can be
    trained with here, None where that cannot be told, and `why` in words.
    """

    preset: Preset
    need_bytes: int | None
    fits: bool | None
    why: str


class Offers(Contract):
    """All presets for a profile; `automatic` is the one that `train.preset=auto` takes here."""

    profile: str
    student: str
    automatic: str | None
    offers: tuple[Offer, ...]
    notes: tuple[str, ...]


def offer_presets(profile: str, changes: Sequence[str] = (), on_event: OnEvent = ignore) -> Offers:
    """Read this machine and the student, and judge every preset with the profile's own settings on top of it."""
    asked = config.load(profile, changes)
    card = catalogue.model(asked.train.student, config.find_profile(profile).parent)
    student_request = StudentRequest(card=card).model_dump(mode="json")
    probes = [
        Probe(name=_SYSTEM, target="core.env.machine.system:read", argument={"variables": {}}, timeout_s=_LOCAL_S),
        Probe(name=NVML_PROBE, target="core.env.gpu:read", timeout_s=_LOCAL_S),
        Probe(name=_STUDENT, target="core.env.student:read", argument=student_request, timeout_s=_LOCAL_S),
    ]
    with tempfile.TemporaryDirectory(prefix="edgekiln-env-") as scratch:
        readings = run_probes(probes, Path(scratch), on_event)
    student = value_of(readings, _STUDENT, StudentReading)
    shape = student.shape if student else card.shape
    gpu, ram = rooms(readings)
    offers = tuple(
        judged(preset, config.load(profile, (*changes, f"train.preset={preset.name}")).train, shape, gpu, ram)
        for preset in presets()
    )
    automatic = recommended(gpu.capability, gpu.total_mib) if gpu else recommended(None, None)
    return Offers(
        profile=asked.name,
        student=card.name,
        automatic=automatic.name if automatic else None,
        offers=offers,
        notes=tuple(_notes(asked.train, shape, gpu, automatic)),
    )


def rooms(readings: Readings) -> tuple[Room | None, Room | None]:
    """Return the first GPU's memory and this machine's RAM, None for what is not there or not told."""
    gpu = next((gpu for gpu in gpu_reading(readings).gpus if gpu.error is None), None)
    machine = value_of(readings, _SYSTEM, ThisMachine)
    ram = ram_room(machine.system.host, machine.system.ram_available_bytes, None) if machine else None
    return (gpu_room(gpu) if gpu else None), ram


def judged(preset: Preset, train: TrainConfig, shape: ModelShape | None, gpu: Room | None, ram: Room | None) -> Offer:
    """Judge a preset by the memory there is; `train` is the profile's section with the preset under it."""
    room = gpu if preset.device == "cuda" else ram
    job = Job(shape, train, preset.device, room.compute_bytes if room else 2) if shape else None
    need = training_need(job).peak_bytes if job else None
    fits, why = _fits(preset, need, room)
    return Offer(preset=preset, need_bytes=need, fits=fits, why=why)


def _fits(preset: Preset, need: int | None, room: Room | None) -> tuple[bool | None, str]:
    if room is None:
        return (False, "no GPU here") if preset.device == "cuda" else (None, "the RAM cannot be read")
    if room.capability is not None and not preset.suits(float(room.capability), room.total_mib):
        return False, f"not for this GPU: capability {room.capability}, {room.total_bytes / _GIB:.1f} GiB"
    if need is None:
        return None, "the student's shape is not known"
    if need > room.total_bytes:
        return False, f"needs {need / _GIB:.1f} GiB, there are {room.total_bytes / _GIB:.1f}"
    return True, f"{need / _GIB:.1f} of {room.total_bytes / _GIB:.1f} GiB"


def _notes(train: TrainConfig, shape: ModelShape | None, gpu: Room | None, automatic: Preset | None) -> list[str]:
    """Return what the figures hold for."""
    here = gpu.name if gpu else "no GPU"
    notes = [f"train.preset=auto takes {automatic.name if automatic else 'none of them'} here ({here})"]
    if shape is not None:
        notes.append(
            f"memory: estimated (+-{TOLERANCE:.0%}) with rows of train.max_length={train.max_length} or the preset's"
        )
    notes.append("what the profile or --set names itself stands above every preset")
    return notes
