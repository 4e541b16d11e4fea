"""The presets beside a profile and this machine: what a training with each needs, and whether it would fit here."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from core import catalogue, config
from core.config import TrainConfig
from core.contract import Contract, Stage
from core.env.accelerators import NVML_PROBE, gpu_reading
from core.env.capability import Readings, value_of
from core.env.fit import Room, gpu_room, ram_room
from core.env.machine.system import ThisMachine
from core.env.memory_need import TOLERANCE, Job, training_need
from core.env.presets import presets, recommended
from core.env.probe import Probe, run_probes
from core.env.student import StudentReading, StudentRequest
from core.events import OnEvent, ignore
from core.nouns import HostFacts, LabeledDataset
from core.shape import ModelShape
from core.train.eta import Span, earlier_paces, whole
from core.train.metrics import speed_key
from core.train.presets import Preset
from core.workspace import Workspace, artifacts

_SYSTEM, _STUDENT = "machine.system", "student"
_LOCAL_S = 20.0
_GIB = 1 << 30


class Offer(Contract):
    """A preset under a profile's own settings.

    `need_bytes` is the estimated peak where it is for, None for a student of unknown shape; `fits` says whether it can be
    trained with here, None where that cannot be told, and `why` in words. `time` is what a training of the workspace's newest
    labelled rows would take, None unless trainings of that speed ran on this machine, and for packed rows.
    """

    preset: Preset
    need_bytes: int | None
    fits: bool | None
    why: str
    time: Span | None = None


class Offers(Contract):
    """All presets for a profile; `automatic` is the one that `train.preset=auto` takes here."""

    profile: str
    student: str
    automatic: str | None
    offers: tuple[Offer, ...]
    notes: tuple[str, ...]


def offer_presets(
    profile: str, changes: Sequence[str] = (), workspace: Workspace | None = None, on_event: OnEvent = ignore
) -> Offers:
    """Read this machine, the student and the workspace's earlier trainings, and judge every preset under the profile."""
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
    machine, rows = value_of(readings, _SYSTEM, ThisMachine), _newest_rows(workspace)
    offers = []
    for preset in presets():
        train = config.load(profile, (*changes, f"train.preset={preset.name}")).train
        offer = judged(preset, train, shape, gpu, ram)
        if workspace is not None and machine is not None and rows is not None:
            offer = offer.model_copy(update={"time": _time(preset, train, (workspace, rows), machine.system.host, gpu)})
        offers.append(offer)
    automatic = recommended(gpu.capability, gpu.total_mib) if gpu else recommended(None, None)
    return Offers(
        profile=asked.name,
        student=card.name,
        automatic=automatic.name if automatic else None,
        offers=tuple(offers),
        notes=tuple(_notes(asked.train, shape, gpu, automatic, rows)),
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


def _newest_rows(workspace: Workspace | None) -> int | None:
    """Return the rows to train on of the newest labelled dataset."""
    found = artifacts(workspace, Stage.LABEL) if workspace else []
    return next((each.train_rows for each in reversed(found) if isinstance(each, LabeledDataset)), None)


def _time(preset: Preset, train: TrainConfig, job: tuple[Workspace, int], host: HostFacts, gpu: Room | None) -> Span | None:
    workspace, rows = job
    on_gpu = preset.device == "cuda"
    if train.packing or (on_gpu and gpu is None):  # how many packs the rows make is not known before they are packed
        return None
    device = gpu.name if on_gpu and gpu else host.cpu_model or "CPU"
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps * train.parallel.processes
    paces = earlier_paces(workspace, speed_key(train), device, host.fingerprint)
    return whole(paces, rows, batch, train.num_train_epochs)


def _notes(
    train: TrainConfig, shape: ModelShape | None, gpu: Room | None, automatic: Preset | None, rows: int | None
) -> list[str]:
    """Return what the figures hold for."""
    here = gpu.name if gpu else "no GPU"
    notes = [f"train.preset=auto takes {automatic.name if automatic else 'none of them'} here ({here})"]
    if shape is not None:
        notes.append(
            f"memory: estimated (+-{TOLERANCE:.0%}) with rows of train.max_length={train.max_length} or the preset's"
        )
    if rows is not None:
        notes.append(f"time: for the {rows} rows of the newest labelled dataset, learned from trainings of that speed here")
    notes.append("what the profile or --set names itself stands above every preset")
    return notes
