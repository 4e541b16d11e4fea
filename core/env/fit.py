"""Whether the configured training and its merge fit into this machine's memory, the largest batch that does, the preset."""

from __future__ import annotations

from dataclasses import dataclass

from core import catalogue
from core.config import TrainConfig
from core.contract import Confidence, Finding, Severity
from core.env.accelerators import gpu_reading
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.gpu import Gpu
from core.env.machine.system import ThisMachine, usable_ram_bytes
from core.env.memory_need import MOST_ROWS, TOLERANCE, Device, Job, largest_batch, merge_bytes, training_need
from core.env.presets import recommended
from core.env.probe import Probe
from core.env.roles import Role
from core.env.student import StudentReading, StudentRequest
from core.env.trial.reading import TrialReading
from core.errors import BadConfig
from core.export.section import MergeChoice
from core.nouns import Fact, HostFacts
from core.shape import ModelShape

PROBE = "fit.student"
FITS = "fits"
TARGETS = "target-modules"
MERGES = "merge-memory"
_TIMEOUT_S = 20.0  # it imports huggingface_hub at most
_TRAINER = frozenset({Role.TRAINER})
_EXPORTER = frozenset({Role.EXPORTER})
_GIB = 1 << 30
_MIB = 1 << 20
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# mkldnn multiplies bf16 itself with these (torch, mkldnn_bf16_device_check); without them a training computes in fp32
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Room:
    """The memory a training has: where, all of it and what is free now; `bf16` says whether it is computed with in 2 bytes."""

    device: Device
    name: str
    total_bytes: int
    free_bytes: int | None
    compute_bytes: int
    capability: str | None = None

    @property
    def total_mib(self) -> int:
        """All of it in MiB."""
        return self.total_bytes // _MIB


def probes(context: Context) -> list[Probe]:
    """Return the probe that reads the student's config.json."""
    card = catalogue.model(context.profile.train.student, context.beside)
    argument = StudentRequest(card=card).model_dump(mode="json")
    return [Probe(name=PROBE, target="core.env.student:read", argument=argument, timeout_s=_TIMEOUT_S)]


def room_of(readings: Readings, config: TrainConfig) -> Room | None:
    """Return where a training would take place, None when its memory cannot be read."""
    gpus = [gpu for gpu in gpu_reading(readings).gpus if gpu.error is None]
    if config.device == "cuda" or (config.device == "auto" and gpus):
        return gpu_room(gpus[0]) if gpus else None
    machine = value_of(readings, "machine.system", ThisMachine)
    if machine is None:
        return None
    trial = value_of(readings, "trial", TrialReading)
    dtype = trial.training.compute_dtype if trial else None
    return ram_room(machine.system.host, machine.system.ram_available_bytes, dtype)


def gpu_room(gpu: Gpu) -> Room | None:
    """Return a GPU's room; None when it does not tell its memory."""
    if gpu.memory_total_mib is None:
        return None
    free = None if gpu.memory_free_mib is None else gpu.memory_free_mib * _MIB
    return Room("cuda", gpu.name, gpu.memory_total_mib * _MIB, free, 2, gpu.compute_capability)


def ram_room(host: HostFacts, available_bytes: int | None, dtype: str | None) -> Room | None:
    """Return the RAM's room; `dtype` is what the trial computed in, None when only the processor's features tell."""
    usable = usable_ram_bytes(host)
    if usable is None:
        return None
    told = _BYTES.get(dtype or "", 2 if _BF16 & set(host.cpu_features) else 4)
    return Room("cpu", "RAM", usable, None if available_bytes is None else min(usable, available_bytes), told)


def findings(readings: Readings, context: Context) -> list[Finding]:
    """Judge the reading for a context's job."""
    student = value_of(readings, PROBE, StudentReading)
    if student is None:
        return []
    config = context.profile.train
    room = room_of(readings, config)
    if student.shape is None:
        return [_unknown(student, "its config.json is not that of a dense model of Llama's kind, or is not here")]
    found = [*target_findings(student.shape, config), *_merge_findings(readings, context, student.shape)]
    if room is None:
        return [*found, _unknown(student, "the memory of the device it trains on cannot be read")]
    return [*found, *fit_findings(student.shape, config, room, smaller_students(context, room))]


def _unknown(student: StudentReading, why: str) -> Finding:
    return Finding(
        code=FITS,
        severity=Severity.INFO,
        where=student.name,
        evidence=f"not estimated: {why if student.shape else student.why or why}",
        cause=why,
        confidence=Confidence.HIGH,
        remedy="Nothing has to be done here; see what is told of that device, and look again when it can be read."
        if student.shape
        else "Nothing has to be done; fetch the student and look again, or give its card a `shape`.",
    )


def target_findings(shape: ModelShape, config: TrainConfig) -> list[Finding]:
    """Judge the names of layers that shall get an adapter: PEFT passes silently over one that does not exist."""
    wanted = config.lora.target_modules
    if isinstance(wanted, str):
        return []
    there = [matrix.name for matrix in shape.matrices()]
    strange = [name for name in wanted if name not in there]
    if not strange:
        return []
    none_left = len(strange) == len(wanted)
    tied = shape.tie_word_embeddings and "lm_head" in strange
    cause = "the output matrix is tied to the embedding, a merge spoils one of them" if tied else "another model's names"
    return [
        Finding(
            code=TARGETS,
            severity=Severity.ERROR if none_left else Severity.WARNING,
            where="train.lora.target_modules",
            evidence=f"{', '.join(strange)} is none of {', '.join(there)}",
            cause=cause,
            confidence=Confidence.HIGH,
            remedy="Name layers of this student, or take them all: --set train.lora.target_modules=all-linear.",
            remedy_argv=("edgekiln", "run", "--set", "train.lora.target_modules=all-linear"),
        )
    ]


def fit_findings(shape: ModelShape, config: TrainConfig, room: Room, smaller: tuple[str, ...] = ()) -> list[Finding]:
    """Judge the estimated peak by the room.

    Rows shorter than `max_length` need less. Past a GPU's memory and the estimate's own error it is an error: a GPU has no
    swap and is paid for. In RAM it is one only where not even one row fits, else a warning.
    """
    job = Job(shape, config, room.device, room.compute_bytes)
    peak = training_need(job).peak_bytes
    if peak <= room.total_bytes:
        return [] if room.free_bytes is None or peak <= room.free_bytes else [_taken(config, room, peak)]
    batch = largest_batch(job, room.total_bytes)
    sure = peak > room.total_bytes * (1 + TOLERANCE)
    return [
        Finding(
            code=FITS,
            severity=Severity.ERROR if sure and (room.device == "cuda" or batch == 0) else Severity.WARNING,
            where=f"{config.student} on {room.name}",
            evidence=_evidence(config, room, peak, room.total_bytes, "there is"),
            cause="student, batch and max_length together need more memory than there is when rows are that long",
            confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
            remedy=_remedy(config, batch, smaller),
            remedy_argv=("edgekiln", "run", *_smaller_batch(config, batch)) if batch else (),
            verify_argv=("edgekiln", "env", *_smaller_batch(config, batch)) if batch else ("edgekiln", "env", "models"),
        )
    ]


def _merge_findings(readings: Readings, context: Context, shape: ModelShape) -> list[Finding]:
    machine = value_of(readings, "machine.system", ThisMachine)
    room = None if machine is None else ram_room(machine.system.host, machine.system.ram_available_bytes, None)
    return [] if room is None else merge_findings(shape, context.profile.train, context.profile.export.merge, room)


def merge_findings(shape: ModelShape, config: TrainConfig, merge: MergeChoice, room: Room) -> list[Finding]:
    """Judge the export's peak by the RAM: converting and quantising stream a model, merging holds it whole, in fp32."""
    peak = merge_bytes(shape, config, onto_dequantised=merge != "base")
    if peak <= room.total_bytes:
        return []
    plain = merge_bytes(shape, config, onto_dequantised=False)
    other = merge != "base" and plain <= room.total_bytes
    sure = peak > room.total_bytes * (1 + TOLERANCE)
    return [
        Finding(
            code=MERGES,
            severity=Severity.ERROR if sure else Severity.WARNING,
            where=f"{config.student} in {room.name}",
            evidence=f"estimated peak of merging {_gib(peak)} GiB (+-{TOLERANCE:.0%}) > {_gib(room.total_bytes)} GiB there is; "
            f"export.merge {merge}, {shape.parameters() / 1e9:.1f} G parameters in fp32, max_length {config.max_length}",
            cause="the merged model is held in fp32 before it is converted and quantised",
            confidence=Confidence.HIGH if sure else Confidence.MEDIUM,
            remedy=f"export.merge=base needs {_gib(plain)} GiB, which fits."
            if other
            else "Export on a machine with more RAM, or choose a smaller student: the rest of the export streams.",
            remedy_argv=("edgekiln", "run", "--set", "export.merge=base") if other else (),
            verify_argv=("edgekiln", "env", "--set", "export.merge=base") if other else ("edgekiln", "env", "models"),
        )
    ]


def _taken(config: TrainConfig, room: Room, peak: int) -> Finding:
    return Finding(
        code=FITS,
        severity=Severity.WARNING,
        where=f"{config.student} on {room.name}",
        evidence=_evidence(config, room, peak, room.free_bytes or 0, "free now"),
        cause="other programs hold memory at present",
        confidence=Confidence.MEDIUM,
        remedy="Stop what holds the memory before the training starts, such as a teacher that is still loaded.",
        verify_argv=("edgekiln", "env", "--no-cache"),
    )


def _evidence(config: TrainConfig, room: Room, peak: int, held: int, what: str) -> str:
    return (
        f"estimated peak {_gib(peak)} GiB (+-{TOLERANCE:.0%}) > {_gib(held)} GiB {what}; train.per_device_train_batch_size "
        f"{config.per_device_train_batch_size}, max_length {config.max_length}, r {config.lora.r}, "
        f"{config.quantisation}, {room.compute_bytes * 8}-bit computing"
    )


def _smaller_batch(config: TrainConfig, batch: int) -> tuple[str, ...]:
    """Return the overrides that keep as many rows in one optimiser step."""
    rows = config.per_device_train_batch_size * config.gradient_accumulation_steps
    steps = -(-rows // batch)
    overrides = (f"train.per_device_train_batch_size={batch}", f"train.gradient_accumulation_steps={steps}")
    return tuple(word for override in overrides for word in ("--set", override))


def _remedy(config: TrainConfig, batch: int, smaller: tuple[str, ...]) -> str:
    others = f"a smaller student ({', '.join(smaller)})" if smaller else "a smaller student"
    if batch == 0:
        return f"Not even one row of train.max_length={config.max_length} fits: lower train.max_length, or choose {others}."
    return f"The largest batch that fits is {batch}: {' '.join(_smaller_batch(config, batch))}; or choose {others}."


def smaller_students(context: Context, room: Room) -> tuple[str, ...]:
    """Return the known students whose training fits with the profile's settings."""
    names = []
    for name in catalogue.names("models", context.beside):
        try:
            card = catalogue.model(name, context.beside)
        except BadConfig:
            continue  # a broken card is told when it is used
        if "student" in card.roles and card.shape and name != context.profile.train.student:
            need = training_need(Job(card.shape, context.profile.train, room.device, room.compute_bytes))
            if need.peak_bytes <= room.total_bytes:
                names.append(name)
    return tuple(names)


def facts(readings: Readings, context: Context) -> list[Fact]:
    """Tell the estimate, the largest batch that fits, and the preset for this machine."""
    config = context.profile.train
    student, room = value_of(readings, PROBE, StudentReading), room_of(readings, config)
    if room is None:
        return []
    told = []
    if student is not None and student.shape is not None:
        job = Job(student.shape, config, room.device, room.compute_bytes)
        most = largest_batch(job, room.total_bytes)
        more = "or more" if most == MOST_ROWS else "at most"
        value = (
            f"{_gib(training_need(job).peak_bytes)} of {_gib(room.total_bytes)} GiB with batch "
            f"{config.per_device_train_batch_size} of {config.max_length} tokens, batch {most} {more}"
        )
        told.append(Fact(name="training's memory", value=value, source=f"estimated from {student.source}"))
    if preset := recommended(room.capability, room.total_mib if room.device == "cuda" else None):
        told.append(Fact(name="preset", value=f"{preset.name}: {' '.join(preset.settings())}", source=preset.source))
    return told


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"


CAPABILITY = Capability(
    name="fit",
    checks=(
        Check(code=FITS, blocks=_TRAINER),
        Check(code=TARGETS, blocks=_TRAINER),
        Check(code=MERGES, blocks=_EXPORTER),
    ),
    probes=probes,
    findings=findings,
    facts=facts,
)
