"""The lines of the report that say what this machine is."""

from __future__ import annotations

from core.env.capability import Readings, value_of
from core.env.machine.cloud import Cloud
from core.env.machine.docker import Docker
from core.env.machine.interpreter import Interpreter
from core.env.machine.programs import Programs
from core.env.machine.speed import Speed
from core.env.machine.storage import Places
from core.env.machine.system import System, ThisMachine
from core.nouns import Fact, MemoryFacts, MemoryModule

_GIB = 1 << 30


def machine_facts(readings: Readings) -> list[Fact]:
    """Return a line for each thing that was read; what could not be read has none."""
    facts: list[Fact] = []
    if here := value_of(readings, "machine.system", ThisMachine):
        facts += [*system_facts(here.system), *_interpreter_facts(here.interpreter)]
    if cloud := value_of(readings, "machine.cloud", Cloud):
        facts += _cloud_facts(cloud)
    if places := value_of(readings, "machine.places", Places):
        facts += _place_facts(places)
    if speed := value_of(readings, "machine.speed", Speed):
        facts += _speed_facts(speed)
    if programs := value_of(readings, "machine.programs", Programs):
        facts.append(Fact(name="llama.cpp", value=programs.built or "not built here yet", source="the toolchain's folder"))
    if docker := value_of(readings, "machine.docker", Docker):
        facts += _docker_facts(docker)
    return facts


def system_facts(system: System, place: str = "") -> list[Fact]:
    """Return the lines of a machine's processor, memory and surroundings; `place` is put before each name."""
    host = system.host
    lines = [
        ("system", host.os, "/etc/os-release, uname"),
        ("runs in", _runs_in(system), "/.dockerenv, /proc/1/cgroup, /proc/cpuinfo, uname"),
        ("board", host.board_model, "/proc/device-tree/model"),
        ("processor", f"{host.cpu_model or 'unknown'} ({host.arch})", "/proc/cpuinfo, uname"),
        ("llama.cpp kernels for", " ".join(host.cpu_features) or None, "/proc/cpuinfo, every core"),
        ("cores", _cores(system), "affinity, control group"),
        ("governor", ", ".join(system.governors) or None, "cpufreq/scaling_governor"),
        ("memory", _memory(system), "/proc/meminfo, control group"),
        ("memory modules", _modules(system.memory), system.memory.evidence),
    ]
    return [Fact(name=f"{place}{name}", value=value, source=source) for name, value, source in lines if value]


def _runs_in(system: System) -> str:
    around = system.surroundings
    named = [
        f"WSL {around.wsl}" if around.wsl else None,
        f"a {around.container} container" if around.container else None,
        around.virtual,
    ]
    return ", ".join(name for name in named if name) or "no container and no virtual machine that tells of itself"


def _cores(system: System) -> str:
    quota = "" if system.quota is None else f", quota {system.quota:g}"
    online = "unknown" if system.cpus_online is None else str(system.cpus_online)
    return f"{system.host.cpus_usable} usable of {online}{quota}"


def _memory(system: System) -> str:
    limit = system.host.ram_limit_bytes
    parts = [
        ("total", system.host.ram_bytes),
        ("available", system.ram_available_bytes),
        ("limit of the control group", limit),
        ("swap", system.swap_bytes),
    ]
    return ", ".join(f"{name} {size / _GIB:.1f} GiB" for name, size in parts if size is not None) or "unknown"


def _modules(memory: MemoryFacts) -> str:
    if not memory.known:
        return "unknown"
    kinds = [_module(module) for module in memory.modules]
    peak = "" if memory.theoretical_gbs is None else f", at most {memory.theoretical_gbs:.1f} GB/s"
    return "; ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)) + peak


def _module(module: MemoryModule) -> str:
    size = "unknown size" if module.bytes is None else f"{module.bytes / _GIB:.0f} GiB"
    rate = module.configured_mts or module.data_rate_mts
    return f"{module.kind or 'unknown kind'} {size} {'unknown rate' if rate is None else f'{rate} MT/s'}"


def _interpreter_facts(found: Interpreter) -> list[Fact]:
    notebook = ", started by a Jupyter kernel" if found.notebook else ""
    place = found.installed_from or found.installed_in or "nowhere"
    return [
        Fact(name="Python", value=f"{found.version}, {found.kind} {found.prefix}{notebook}", source=found.executable),
        Fact(
            name="edgekiln",
            value=f"{found.project_version or 'not installed'}, installed from {place}",
            source=f"package metadata; runs from {found.running_from}",
        ),
    ]


def _cloud_facts(cloud: Cloud) -> list[Fact]:
    if cloud.provider is None:
        return [Fact(name="cloud", value="none that firmware names", source=cloud.evidence)]
    kind = {True: "a spot instance", False: "not a spot instance", None: "spot or not is unknown"}[cloud.spot]
    return [Fact(name="cloud", value=f"{cloud.provider}, {kind}", source=cloud.evidence)]


def _place_facts(places: Places) -> list[Fact]:
    return [
        Fact(
            name=place.name,
            value=f"{place.free_bytes / 1e9:.1f} GB free, {place.real}",
            source=f"statvfs; {place.filesystem or 'file system unknown'}",
        )
        for place in places.places
    ]


def _speed_facts(speed: Speed) -> list[Fact]:
    facts = []
    if speed.bandwidth:
        triad = speed.bandwidth.triad.best_gbs
        source = f"triad, {speed.bandwidth.threads} threads, 3 x {speed.bandwidth.array_bytes >> 20} MiB, best of "
        value = f"{triad:.1f} GB/s"
        facts.append(Fact(name="memory bandwidth", value=value, source=f"{source}{speed.bandwidth.triad.repetitions}"))
    else:
        facts.append(Fact(name="memory bandwidth", value="not measured", source=speed.bandwidth_error or ""))
    if speed.written:
        value = f"{speed.written.mbs:.0f} MB/s"
        facts.append(Fact(name="write speed", value=value, source=f"{speed.written.bytes >> 20} MiB, synced"))
    else:
        facts.append(Fact(name="write speed", value="not measured", source=speed.written_error or ""))
    return facts


def _docker_facts(docker: Docker) -> list[Fact]:
    if docker.program is None:
        return [Fact(name="Docker", value="not installed", source="PATH")]
    if docker.version is None:
        return [Fact(name="Docker", value=f"{docker.program}, its engine does not answer", source=docker.error or "")]
    runtimes = ", ".join(docker.runtimes) or "none"
    return [Fact(name="Docker", value=f"engine {docker.version}, runtimes {runtimes}", source="docker info")]
