"""This machine as a part of the doctor: which probes read it, how it is judged, and the lines that tell what it is."""

from __future__ import annotations

from core.config import environment_variables, hf_home
from core.contract import Finding
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.host import read_host
from core.env.machine import clock, cloud, docker, interpreter, programs, speed, storage, surroundings, system
from core.env.machine.facts import machine_facts
from core.env.probe import Probe
from core.env.roles import EVERY, Role

_VARIABLES = ("VIRTUAL_ENV", "CONDA_PREFIX", "JPY_PARENT_PID")
_RUNS_PYTHON = EVERY - {Role.BOARD}
_HEAVY = frozenset({Role.LABELER, Role.TRAINER, Role.EXPORTER})
_MEASURES = frozenset({Role.BENCH_HOST, Role.BOARD})
_RUNS_LLAMA = frozenset({Role.LABELER, Role.EXPORTER, Role.BENCH_HOST})
_DATE_TIMEOUT_S = 2.0
_MOST_WRITTEN_BYTES = 256 << 20

# The checks that a probe serves: it is not run when all of them are skipped. The others always tell what the machine is.
_ALWAYS = frozenset({"always"})
_SERVES = {
    "machine.cloud": frozenset({"spot"}),
    "machine.programs": frozenset({"programs"}),
    "machine.docker": frozenset({"docker"}),
    "machine.speed": frozenset({"memory-bandwidth", "disk-speed"}),
}

CHECKS = (
    Check(code="windows"),
    Check(code="wsl"),
    Check(code="python", blocks=_RUNS_PYTHON),
    Check(code="venv", blocks=_RUNS_PYTHON),
    Check(code="interpreter", blocks=_RUNS_PYTHON),
    Check(code="clock"),
    Check(code="cpu-features", blocks=_RUNS_LLAMA | {Role.BOARD}),
    Check(code="cpus"),
    Check(code="governor", blocks=_MEASURES),
    Check(code="ram", blocks=_HEAVY, warns=frozenset({Role.BENCH_HOST})),
    Check(code="memory-bandwidth", blocks=_RUNS_LLAMA | {Role.BOARD}),
    Check(code="disk", blocks=_RUNS_PYTHON),
    Check(code="disk-speed", blocks=_HEAVY),
    Check(code="cache", blocks=_RUNS_PYTHON),
    Check(code="spot"),
    Check(code="docker", blocks=frozenset({Role.SERVER}), warns=_HEAVY),
    Check(code="programs", blocks=_RUNS_LLAMA),
)


def _probes(context: Context) -> list[Probe]:
    config = context.config
    limit_s = config.probe_timeout_s
    places = {"workspace": context.workspace, "cache": context.cache, "model cache": hf_home()}
    speed_argument = {
        "cache": str(context.cache),
        "folder": str(storage.existing(context.workspace)),
        "threads": read_host().cpus_usable,
        "seconds": config.measure_s,
        "most_bytes": _MOST_WRITTEN_BYTES,
    }
    listed = [
        _probe("system", "system:read", limit_s, {"variables": environment_variables(_VARIABLES)}),
        _probe("places", "storage:read", limit_s, {"places": {name: str(path) for name, path in places.items()}}),
        _probe("cloud", "cloud:read_cloud", limit_s, {}),
        _probe("programs", "programs:read", limit_s, {}),
        _probe("docker", "docker:read", limit_s, {"timeout_s": limit_s / 2}),
        _probe("speed", "speed:read", limit_s + 2 * config.measure_s, speed_argument).model_copy(update={"alone": True}),
    ]
    if url := context.profile.label.base_url:
        listed.append(_probe("date", "clock:read_date", limit_s, {"url": url, "timeout_s": _DATE_TIMEOUT_S}))
    return [probe for probe in listed if not _SERVES.get(probe.name, _ALWAYS) <= set(config.skip)]


def _probe(name: str, target: str, timeout_s: float, argument: dict[str, object]) -> Probe:
    return Probe(name=f"machine.{name}", target=f"core.env.machine.{target}", argument=argument, timeout_s=timeout_s)


def _findings(readings: Readings, context: Context) -> list[Finding]:
    found: list[Finding] = []
    if here := value_of(readings, "machine.system", system.ThisMachine):
        found += _system_findings(here, readings, context)
    if places := value_of(readings, "machine.places", storage.Places):
        found += storage.refused_findings(places.places)
        found += storage.disk_findings(places.places, context.config.min_free_disk_gb)
        found += storage.forgetful_findings(places.places)
    if rented := value_of(readings, "machine.cloud", cloud.Cloud):
        found += cloud.cloud_findings(rented)
    if engine := value_of(readings, "machine.docker", docker.Docker):
        found += docker.docker_findings(engine)
    if measured := value_of(readings, "machine.speed", speed.Speed):
        found += _speed_findings(measured, context)
    if tools := value_of(readings, "machine.programs", programs.Programs):
        found += programs.programs_findings(tools)
    return found


def _system_findings(here: system.ThisMachine, readings: Readings, context: Context) -> list[Finding]:
    places = value_of(readings, "machine.places", storage.Places)
    filesystems = {place.path: place.filesystem for place in places.places} if places else {}
    told = value_of(readings, "machine.date", clock.ServiceDate)
    least_gb = context.config.min_ram_gb
    return [
        *surroundings.surroundings_findings(here.system.surroundings, filesystems),
        *interpreter.interpreter_findings(here.interpreter),
        *clock.clock_findings(here.system.now_s, here.newest_file_s, told, context.config.clock_tolerance_s),
        *system.ram_findings(here.system.host, least_gb, "env.min_ram_gb"),
        *system.cpu_findings(here.system),
    ]


def _speed_findings(measured: speed.Speed, context: Context) -> list[Finding]:
    found: list[Finding] = []
    if measured.bandwidth:
        found += speed.bandwidth_findings(measured.bandwidth, context.config.min_memory_gbs)
    if measured.written:
        found += storage.speed_findings(measured.written, context.config.min_write_mbs)
    return found


CAPABILITY = Capability(
    name="machine", checks=CHECKS, probes=_probes, findings=_findings, facts=lambda readings, _: machine_facts(readings)
)
