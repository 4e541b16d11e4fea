"""The doctor's part for accelerators: what NVML, the kernel and torch say of GPUs, judged against each other and the job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from packaging.version import Version

from core.contract import Confidence, Finding, Severity
from core.env import packages
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.gpu import Gpu, GpuReading
from core.env.probe import Probe
from core.env.roles import Role
from core.env.torch_build import Build, TorchFacts, runs_on
from core.nouns import Fact

NVML_PROBE = "accelerators.nvml"
TORCH_PROBE = "accelerators.torch"
_NVML_S = 10.0  # without persistence mode the driver first wakes each GPU, a second or more each
_TORCH_S = 25.0  # a cold import of torch takes 6 s on two cores, CUDA's start some more
_TRAINER = frozenset({Role.TRAINER})
_SMI = ("nvidia-smi",)
_SEES = ("python", "-c", "import torch; print(torch.version.cuda, torch.cuda.device_count(), torch.cuda.is_available())")


@dataclass(frozen=True)
class Seen:
    """What is judged: both readings and whether the job needs a GPU."""

    nvml: GpuReading
    torch: TorchFacts | None
    needed: bool

    @property
    def usable(self) -> tuple[Gpu, ...]:
        """The NVIDIA GPUs that can be read."""
        return tuple(gpu for gpu in self.nvml.gpus if gpu.error is None)

    @property
    def severity(self) -> Severity:
        """What stands between the job and a GPU: an error where it needs one."""
        return Severity.ERROR if self.needed else Severity.WARNING

    @property
    def build(self) -> Build | None:
        """How torch was built."""
        return self.torch.build if self.torch else None


def probes(_context: Context) -> list[Probe]:
    """Return the probes: NVML and KFD in one child, torch in another."""
    return [
        Probe(name=NVML_PROBE, target="core.env.gpu:read", timeout_s=_NVML_S),
        Probe(name=TORCH_PROBE, target="core.env.torch_facts.worker:read", timeout_s=_TORCH_S),
    ]


def gpu_reading(readings: Readings) -> GpuReading:
    """Return what NVML and the kernel told; a probe that failed is a reading without GPUs that says why."""
    reading = readings.get(NVML_PROBE)
    if reading is None or reading.value is None:
        return GpuReading(lacks="answer", evidence=f"NVML: {reading.error if reading else 'it was not asked'}")
    return GpuReading.model_validate(reading.value)


def torch_facts(readings: Readings) -> TorchFacts | None:
    """Return what torch told, None when its process failed."""
    return value_of(readings, TORCH_PROBE, TorchFacts)


def findings(readings: Readings, context: Context) -> list[Finding]:
    """Judge the readings for a context's job."""
    return accelerator_findings(gpu_reading(readings), torch_facts(readings), needed=needs_gpu(context))


def needs_gpu(context: Context) -> bool:
    """Whether the profile cannot train without a GPU."""
    return context.config.needs_cuda or context.profile.train.device == "cuda"


def accelerator_findings(nvml: GpuReading, torch: TorchFacts | None, *, needed: bool) -> list[Finding]:
    """Judge what NVML and torch told; `needed` is whether the job stops without a GPU."""
    seen = Seen(nvml, torch, needed)
    return [finding for judge in _JUDGES for finding in judge(seen)]


def _none(seen: Seen) -> Iterator[Finding]:
    """Nothing to train on, though the job needs it; or NVIDIA's driver is there and does not work, whoever needs it."""
    torch_has_one = bool(seen.torch and seen.torch.devices)
    broken = seen.nvml.lacks == "driver"
    if seen.usable or torch_has_one or not (seen.needed or broken):
        return
    needed = ", the job needs one (env.needs_cuda or train.device)" if seen.needed else ""
    yield Finding(
        code="cuda",
        severity=seen.severity,
        where="GPU",
        evidence=f"0 usable GPUs{needed}: {seen.nvml.evidence}",
        cause="the NVIDIA driver is installed but does not work" if broken else _ABSENT[seen.nvml.lacks],
        confidence=Confidence.HIGH if broken else Confidence.MEDIUM,
        remedy=_BROKEN_DRIVER if broken else _NO_DRIVER,
        verify_argv=_SMI,
    )


_ABSENT = {
    None: "there is no NVIDIA GPU here, or the container does not pass it through",
    "binding": "NVML cannot be asked: its Python binding is missing",
    "answer": "asking the driver crashed or hung: what it told, if anything, is lost",
    "library": "there is no GPU here, its driver is not installed, or the container does not pass it through",
}
_NO_DRIVER = (
    "Install the NVIDIA driver (in a container: run it with --gpus all), or train without: train.device=cpu and"
    " env.needs_cuda=false."
)
_BROKEN_DRIVER = "Reboot when the driver was updated just now; else install it again, as kernel module and libraries must be of one version."


def _torch_build(seen: Seen) -> Iterator[Finding]:
    """A torch that was not built for the GPU that is here."""
    build = seen.build
    wanted = "CUDA" if seen.usable else "ROCm" if seen.nvml.amd else None
    if build is None or wanted is None or build.kind == wanted:
        return
    here = seen.usable[0].name if seen.usable else seen.nvml.amd[0].target
    again = ("python", "-m", "pip", "install", "--force-reinstall", _never_cpu(build.version))
    yield Finding(
        code="torch-build",
        severity=seen.severity,
        where=build.path,
        evidence=f"torch {build.version} is a {build.kind} build (cuda = {build.cuda}, hip = {build.hip}), here is {here}",
        cause=f"the {'CPU-only' if build.kind == 'CPU' else build.kind} wheel of torch is installed on a GPU machine",
        confidence=Confidence.HIGH,
        remedy="Install the CUDA build of torch; on Linux it is the plain wheel, without +cpu."
        if wanted == "CUDA"
        else "Install the ROCm build of torch; PyTorch keeps it on an index of its own.",
        remedy_argv=again if wanted == "CUDA" else (),
        verify_argv=_SEES,
    )


def _never_cpu(installed: str) -> str:
    """Return the requirement of the CUDA build: where an index offers both, `==` alone is met by the CPU build too."""
    pins = [str(r.specifier) for r in packages.requirements() if r.name == "torch"]
    public = installed.partition("+")[0]
    return f"torch{pins[0] if pins else f'=={public}'},!={public}+cpu"


def _driver(seen: Seen) -> Iterator[Finding]:
    """A driver that knows only an older CUDA than the one torch was compiled with."""
    build = seen.build
    if not (build and build.cuda and seen.nvml.cuda and seen.usable):
        return
    knows, asked = Version(seen.nvml.cuda), Version(build.cuda)
    if knows >= asked:
        return
    too_old = knows.major < asked.major
    yield Finding(
        code="cuda-driver",
        severity=seen.severity if too_old else Severity.INFO,
        where=f"NVIDIA driver {seen.nvml.driver}",
        evidence=f"the driver knows CUDA {seen.nvml.cuda} < CUDA {build.cuda} that torch {build.version} was built with",
        cause="the NVIDIA driver is too old for this torch"
        if too_old
        else "the driver is of an older minor version: CUDA's minor version compatibility covers it, except for code that is"
        " compiled at run time",
        confidence=Confidence.HIGH,
        remedy=f"Update the NVIDIA driver to one that knows CUDA {build.cuda}, or install a torch built for CUDA"
        f" {seen.nvml.cuda} or older.",
        verify_argv=_SEES if too_old else _SMI,
    )


def _architectures(seen: Seen) -> Iterator[Finding]:
    """A GPU that this torch holds no code for."""
    if seen.torch is None or seen.build is None or seen.build.kind != "CUDA":
        return
    for gpu in seen.usable:
        if gpu.compute_capability is None or runs_on(gpu.compute_capability, seen.torch.arch_list) is not False:
            continue
        yield Finding(
            code="gpu-arch",
            severity=_unless_another(seen, gpu),
            where=f"GPU {gpu.index} {gpu.name}",
            evidence=f"compute capability {gpu.compute_capability}; torch {seen.build.version} holds code for"
            f" {' '.join(seen.torch.arch_list)} (torch.cuda.get_arch_list)",
            cause="this torch was not compiled for this GPU",
            confidence=Confidence.HIGH,
            remedy="Install a torch that was: an older CUDA build for an old GPU, a newer torch for a new one.",
            verify_argv=_SEES,
        )


def _unless_another(seen: Seen, gpu: Gpu) -> Severity:
    others = [other for other in seen.usable if other.index != gpu.index]
    return Severity.WARNING if others else seen.severity


def _torch_sees(seen: Seen) -> Iterator[Finding]:
    """A torch that was built for the GPU and still cannot use it, or not all."""
    if seen.torch is None or not seen.torch.imported or seen.build is None:
        return
    here = len(seen.usable) if seen.build.kind == "CUDA" else len(seen.nvml.amd) if seen.build.kind == "ROCm" else 0
    sees = len(seen.torch.devices)
    if sees >= here:
        return
    yield Finding(
        code="torch-gpu",
        severity=Severity.INFO if sees else seen.severity,
        where="torch.cuda",
        evidence=f"torch sees {sees} of {here} GPUs{': ' + seen.torch.said if seen.torch.said else ''}",
        cause="CUDA_VISIBLE_DEVICES hides them" if sees else "torch cannot start CUDA on this machine",
        confidence=Confidence.MEDIUM if sees else Confidence.LOW,
        remedy="Unset CUDA_VISIBLE_DEVICES if that was not meant."
        if sees
        else "Mend what torch says; after an update of the driver reboot first.",
        verify_argv=_SEES,
    )


def _lost(seen: Seen) -> Iterator[Finding]:
    for gpu in seen.nvml.gpus:
        if gpu.error is not None:
            yield Finding(
                code="gpu-lost",
                severity=Severity.WARNING if seen.usable else seen.severity,
                where=f"GPU {gpu.index}",
                evidence=f"NVML: {gpu.error}",
                cause="the GPU fell off the bus, or this user may not use it",
                confidence=Confidence.MEDIUM,
                remedy="Read the kernel's log for NVRM lines (Xid); reboot, and have the GPU replaced when it is lost again.",
                verify_argv=_SMI,
            )


def _ecc(seen: Seen) -> Iterator[Finding]:
    for gpu in seen.usable:
        volatile, ever = gpu.ecc_volatile or 0, gpu.ecc_aggregate or 0
        if not volatile and not ever:
            continue
        yield Finding(
            code="gpu-ecc",
            severity=seen.severity if volatile else Severity.WARNING,
            where=f"GPU {gpu.index} {gpu.name}",
            evidence=f"uncorrected ECC errors: {volatile} since the driver was loaded, {ever} since the GPU was made",
            cause="the GPU's memory lost data: what it computed since cannot be trusted"
            if volatile
            else "the GPU's memory has lost data before; the driver has set such places aside",
            confidence=Confidence.HIGH,
            remedy="Reboot, so that the driver maps the bad places out; have the GPU replaced when the count rises again.",
            verify_argv=("nvidia-smi", "--query", "--display=ECC"),
        )


def _slowed(seen: Seen) -> Iterator[Finding]:
    for gpu in seen.usable:
        if gpu.throttled_by:
            yield Finding(
                code="gpu-throttle",
                severity=Severity.WARNING,
                where=f"GPU {gpu.index} {gpu.name}",
                evidence=f"it is slowed down now by: {', '.join(gpu.throttled_by)}",
                cause="it is too hot, or its power supply is too weak",
                confidence=Confidence.HIGH,
                remedy="Look after its cooling and its power cables; speeds measured meanwhile are too low.",
                verify_argv=("nvidia-smi", "--query", "--display=PERFORMANCE"),
            )
        if gpu.power_limit_w and gpu.power_default_w and gpu.power_limit_w < gpu.power_default_w:
            yield Finding(
                code="gpu-power",
                severity=Severity.INFO,
                where=f"GPU {gpu.index} {gpu.name}",
                evidence=f"power limit {gpu.power_limit_w:g} W < {gpu.power_default_w:g} W, its default",
                cause="somebody lowered the limit",
                confidence=Confidence.HIGH,
                remedy=f"Leave it, or give it back: nvidia-smi -i {gpu.index} -pl {gpu.power_default_w:g}",
                remedy_argv=("nvidia-smi", "-i", str(gpu.index), "-pl", f"{gpu.power_default_w:g}"),
                verify_argv=("nvidia-smi", "--query", "--display=POWER"),
            )


def _bf16(seen: Seen) -> Iterator[Finding]:
    for gpu in seen.usable:
        if gpu.bf16 is False:
            yield Finding(
                code="bf16",
                severity=Severity.INFO,
                where=f"GPU {gpu.index} {gpu.name}",
                evidence=f"compute capability {gpu.compute_capability} < 8.0: it does not multiply bfloat16 itself",
                cause="the GPU is older than the Ampere generation",
                confidence=Confidence.HIGH,
                remedy="Expect slower steps; nothing needs to be changed.",
            )


_JUDGES: tuple[Callable[[Seen], Iterator[Finding]], ...] = (
    _none,
    _torch_build,
    _driver,
    _architectures,
    _torch_sees,
    _lost,
    _ecc,
    _slowed,
    _bf16,
)


def facts(readings: Readings, _context: Context) -> list[Fact]:
    """Tell every accelerator, and what torch was built for."""
    return accelerator_facts(gpu_reading(readings), torch_facts(readings))


def accelerator_facts(nvml: GpuReading, torch: TorchFacts | None) -> list[Fact]:
    """Tell what the readings hold, line by line."""
    told = [Fact(name=f"GPU {gpu.index}", value=_gpu_line(gpu), source="NVML") for gpu in nvml.gpus]
    told += [
        Fact(name=f"AMD GPU {n}", value=f"{gpu.target}, {gpu.memory_total_mib} MiB", source="/sys/class/kfd")
        for n, gpu in enumerate(nvml.amd)
    ]
    if not told:
        known = nvml.lacks in {None, "library"}
        told.append(Fact(name="GPU", value="none" if known else "unknown", source=nvml.evidence))
    if nvml.driver:
        told.append(Fact(name="NVIDIA driver", value=f"{nvml.driver}, CUDA up to {nvml.cuda}", source="NVML"))
    told += [Fact(name=f"GPU {link.first} to {link.second}", value=link.path, source="NVML") for link in nvml.links]
    if torch and torch.build:
        apple = ", MPS usable" if torch.mps else ""
        told.append(
            Fact(name="torch", value=f"{torch.build.version}, {torch.build.kind} build{apple}", source=torch.build.path)
        )
    return told


def _gpu_line(gpu: Gpu) -> str:
    if gpu.error is not None:
        return f"{gpu.name}, cannot be read: {gpu.error}"
    parts = [gpu.name, f"{gpu.memory_free_mib} of {gpu.memory_total_mib} MiB free" if gpu.memory_total_mib else ""]
    parts.append(f"compute capability {gpu.compute_capability}" if gpu.compute_capability else "")
    parts.append("bf16" if gpu.bf16 else "")
    parts.append(f"ECC {'on' if gpu.ecc_enabled else 'off'}" if gpu.ecc_enabled is not None else "")
    parts.append(f"{gpu.power_limit_w:g} W" if gpu.power_limit_w else "")
    return ", ".join(part for part in parts if part)


CHECKS = tuple(
    Check(code=code, blocks=_TRAINER)
    for code in (
        "cuda",
        "torch-build",
        "cuda-driver",
        "gpu-arch",
        "torch-gpu",
        "gpu-lost",
        "gpu-ecc",
        "gpu-throttle",
        "gpu-power",
        "bf16",
    )
)
ACCELERATORS = Capability(name="accelerators", checks=CHECKS, probes=probes, findings=findings, facts=facts)
