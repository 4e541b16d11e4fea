"""The checks, one function each: what is read from the machine, and the findings when it is not enough for the job."""

from __future__ import annotations

import difflib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.specifiers import SpecifierSet

from core import toolchain, toolchain_build
from core.config import EnvConfig
from core.contract import Finding, Severity
from core.env import packages
from core.env.gpu import GpuReading
from core.errors import BadConfig, ToolMissing
from core.nouns import HostFacts

GB = 1e9


@dataclass(frozen=True)
class Machine:
    """What the checks judge: the machine as it was read, the places it works in, and what the job asks for."""

    config: EnvConfig
    host: HostFacts
    gpus: GpuReading
    workspace: Path
    cache: Path


Check = Callable[[Machine], list[Finding]]


def run_checks(machine: Machine) -> list[Finding]:
    """Run every check that is not skipped; BadConfig when `skip` names an unknown one."""
    refuse_unknown(machine.config.skip)
    return [finding for code, check in CHECKS.items() if code not in machine.config.skip for finding in check(machine)]


def refuse_unknown(skip: Iterable[str]) -> None:
    """Raise BadConfig that names every unknown check code and the nearest known one."""
    unknown = [code for code in skip if code not in CHECKS]
    if not unknown:
        return
    near = [match for code in unknown for match in difflib.get_close_matches(code, CHECKS, n=1)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(CHECKS)}."
    raise BadConfig(f"env.skip: no check {', '.join(map(repr, unknown))}", remedy=f"Name known checks; {hint}")


def _disk(machine: Machine) -> list[Finding]:
    places = {"workspace": machine.workspace, "cache": machine.cache}
    by_device: dict[int, list[tuple[str, Path]]] = {}
    for name, path in places.items():
        there = existing(path)
        by_device.setdefault(there.stat().st_dev, []).append((name, there))
    return [finding for held in by_device.values() if (finding := _space(held, machine.config.min_free_disk_gb))]


def _space(held: list[tuple[str, Path]], wanted_gb: float) -> Finding | None:
    names, path = " and ".join(name for name, _ in held), held[0][1]
    free_gb = shutil.disk_usage(path).free / GB
    if free_gb >= wanted_gb:
        return None
    return Finding(
        code="disk",
        severity=Severity.ERROR,
        where=str(path),
        evidence=f"{free_gb:.1f} GB free < env.min_free_disk_gb {wanted_gb:g} where the {names} lies",
        cause="the file system is nearly full",
        remedy="Free some space there, or name another place with --workspace or EDGEKILN_CACHE.",
    )


def existing(path: Path) -> Path:
    """Return the path or its nearest folder above that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def usable_ram_bytes(host: HostFacts) -> int | None:
    """Return the RAM this process may use, the control group's limit counted."""
    return min((size for size in (host.ram_bytes, host.ram_limit_bytes) if size is not None), default=None)


def _ram(machine: Machine) -> list[Finding]:
    usable = usable_ram_bytes(machine.host)
    if usable is None or usable / GB >= machine.config.min_ram_gb:
        return []
    limited = machine.host.ram_limit_bytes == usable
    return [
        Finding(
            code="ram",
            severity=Severity.ERROR,
            where="control group" if limited else "RAM",
            evidence=f"{usable / GB:.1f} GB usable < env.min_ram_gb {machine.config.min_ram_gb:g}",
            cause="the container's memory limit" if limited else "the machine has less memory than the job needs",
            remedy=f"{'Raise the container limit' if limited else 'Use a larger machine'}, or lower env.min_ram_gb.",
        )
    ]


def _cache(machine: Machine) -> list[Finding]:
    probe = machine.cache / f".probe-{os.getpid()}"
    try:
        machine.cache.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return [
            Finding(
                code="cache",
                severity=Severity.ERROR,
                where=str(machine.cache),
                evidence=f"a file cannot be written there: {error.strerror}",
                cause="the folder belongs to somebody else or is read-only",
                remedy="Name a folder you may write: export EDGEKILN_CACHE=/path.",
            )
        ]
    return []


def _python(_machine: Machine) -> list[Finding]:
    if packages.installed_version(packages.PROJECT) is None:
        return []  # the packages check says so
    return python_findings(platform.python_version(), metadata.metadata(packages.PROJECT)["Requires-Python"])


def python_findings(version: str, wanted: str) -> list[Finding]:
    """Return a finding when an interpreter's version is outside the project's range."""
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return []
    return [
        Finding(
            code="python",
            severity=Severity.ERROR,
            where="interpreter",
            evidence=f"Python {version}, the project requires {wanted}",
            cause="the virtual environment was made with another Python",
            remedy=f"Make a new virtual environment with Python {wanted}.",
        )
    ]


def _programs(_machine: Machine) -> list[Finding]:
    if toolchain.find() is not None:
        return []
    try:
        toolchain_build.require_programs()
    except ToolMissing as error:
        return [
            Finding(
                code="programs",
                severity=Severity.ERROR,
                where="PATH",
                evidence=error.problem,
                cause="llama.cpp is not built here yet and the compiler set is not complete",
                remedy=error.remedy,
            )
        ]
    return []


def _packages(_machine: Machine) -> list[Finding]:
    if packages.installed_version(packages.PROJECT) is None:
        return [
            Finding(
                code="packages",
                severity=Severity.ERROR,
                where=sys.prefix,
                evidence=f"{packages.PROJECT} has no metadata in this environment",
                cause="it runs from its source folder and was never installed here",
                remedy="make setup",
            )
        ]
    states = [packages.state_of(requirement) for requirement in packages.requirements()]
    return [finding for state in states if (finding := package_finding(state))]


def package_finding(state: packages.PackageState) -> Finding | None:
    """Judge one package: missing or torn is an error, another version than the pinned one a warning."""
    if state.satisfied and state.importable:
        return None
    if state.version is None:
        evidence, cause = f"{state.name} is not installed, {state.requirement} is needed", "it was never installed here"
    elif not state.importable:
        evidence, cause = f"{state.name} {state.version} has metadata but no module", "its installation is incomplete"
    else:
        evidence, cause = f"{state.name} {state.version} is installed, {state.requirement} is pinned", "another version"
    blocks = state.version is None or not state.importable
    again = "--force-reinstall --no-deps " if state.version is not None and not state.importable else ""
    return Finding(
        code="packages",
        severity=Severity.ERROR if blocks else Severity.WARNING,
        where=state.name,
        evidence=evidence,
        cause=cause,
        remedy=f"pip install {again}'{state.requirement}'",
    )


def _cuda(machine: Machine) -> list[Finding]:
    if machine.gpus.gpus or not machine.config.needs_cuda:
        return []
    return [
        Finding(
            code="cuda",
            severity=Severity.ERROR,
            where="GPU",
            evidence=f"0 usable NVIDIA GPUs, env.needs_cuda is true: {machine.gpus.evidence}",
            cause="there is no GPU, its driver is not installed, or the container does not pass it through",
            remedy="Install the NVIDIA driver (in a container: run it with --gpus all), or set env.needs_cuda to false.",
        )
    ]


def _torch_build(machine: Machine) -> list[Finding]:
    built = packages.torch_cuda()
    return [] if built is None else torch_build_findings(machine, *built)


def torch_build_findings(machine: Machine, cuda: str | None, version_file: str) -> list[Finding]:
    """Return a finding when torch was built without CUDA on a machine with an NVIDIA GPU."""
    if cuda is not None or not machine.gpus.gpus:
        return []
    pinned = next((f"torch{r.specifier}" for r in packages.requirements() if r.name == "torch"), "torch")
    return [
        Finding(
            code="torch-build",
            severity=Severity.ERROR if machine.config.needs_cuda else Severity.WARNING,
            where=version_file,
            evidence=f"cuda = None although there is {machine.gpus.gpus[0].name}",
            cause="the CPU-only wheel of torch is installed on a GPU machine",
            remedy=f"pip install --force-reinstall --no-deps '{pinned}' (on Linux the plain wheel is the CUDA build)",
        )
    ]


CHECKS: dict[str, Check] = {
    "python": _python,
    "packages": _packages,
    "programs": _programs,
    "cache": _cache,
    "disk": _disk,
    "ram": _ram,
    "cuda": _cuda,
    "torch-build": _torch_build,
}
