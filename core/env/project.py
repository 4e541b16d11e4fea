"""What this project asks of the environment it works in: its requirements, its pins, and whether a GPU is to be used."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

import core
from core.env import packages
from core.env.faults import Fault, FaultKind, Wish, read_pins
from core.env.gpu import GpuReading
from core.env.installed import Survey
from core.env.probe import Probe, run_probes

_SOURCE = Path(core.__file__).parents[1]
_EXTRAS = ("teacher", "train")  # what a job from prompts to GGUF needs, as in packages.py
_GPU_TIMEOUT_S = 20.0  # without persistence mode the driver initialises each GPU first, seconds each


def constraints() -> Path | None:
    """Return the file with the exact versions, which lies beside the source and in a wheelhouse but in no wheel."""
    path = _SOURCE / "constraints.txt"
    return path if path.is_file() else None


def wish(scratch: Path, pins: Path | None) -> Wish:
    """Return what an environment of this project must have on this machine."""
    wanted = packages.requirements() or [Requirement(text) for text in _from_source()]
    return Wish(tuple(_unmarked(wanted)), read_pins(pins), accelerated=_has_gpu(scratch))


def _from_source() -> list[str]:
    path = _SOURCE / "pyproject.toml"
    if not path.is_file():
        return []
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(text for extra in _EXTRAS for text in project["optional-dependencies"][extra])]


def _unmarked(wanted: Iterable[Requirement]) -> Iterable[Requirement]:
    """Yield requirements without the markers (their extras') that were judged already."""
    for requirement in wanted:
        requirement.marker = None
        yield requirement


def _has_gpu(scratch: Path) -> bool:
    probe = Probe(name="gpu", target="core.env.gpu:read", timeout_s=_GPU_TIMEOUT_S)
    value = run_probes([probe], scratch)[probe.name].value
    return value is not None and bool(GpuReading.model_validate(value).gpus)


def own_fault(found: Survey) -> list[Fault]:
    """Return a fault when the project itself is not installed in an environment: pip alone does not set it up."""
    if packages.PROJECT in found.versions():
        return []
    return [
        Fault(
            kind=FaultKind.MISSING,
            name=packages.PROJECT,
            evidence=f"{packages.PROJECT} has no metadata in {found.prefix}",
            cause="it runs from its source folder and was never installed there",
            by_hand="make setup",
        )
    ]
