"""The installed packages against what this project pins, read from metadata only: nothing is imported."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from core.contract import Contract

PROJECT = "edgekiln"
_EXTRAS = ("", "teacher", "train")  # what a job from prompts to GGUF needs; "" are the core's own

# Distributions whose import name is another, of those a job cannot do without.
_IMPORT_NAMES = {
    "bitsandbytes": "bitsandbytes",
    "llama-cpp-python": "llama_cpp",
    "peft": "peft",
    "torch": "torch",
    "transformers": "transformers",
    "trl": "trl",
}
_CUDA_LINE = re.compile(r"^cuda\b[^=]*=\s*(?P<value>.+?)\s*$", re.MULTILINE)


class PackageState(Contract):
    """One requirement and what is installed; `version` None is missing, `importable` False is a torn installation."""

    requirement: str
    name: str
    version: str | None
    satisfied: bool
    importable: bool


def requirements() -> list[Requirement]:
    """Return what the project's metadata requires for a job; nothing when the project itself is not installed."""
    if installed_version(PROJECT) is None:
        return []
    parsed = [Requirement(text) for text in metadata.requires(PROJECT) or []]
    return [r for r in parsed if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in _EXTRAS)]


def versions() -> dict[str, str]:
    """Return the installed version of every required distribution that is there."""
    found = {requirement.name: installed_version(requirement.name) for requirement in requirements()}
    return {name: version for name, version in sorted(found.items()) if version is not None}


def state_of(requirement: Requirement) -> PackageState:
    """Compare a requirement with the installed distribution."""
    version = installed_version(requirement.name)
    module = _IMPORT_NAMES.get(requirement.name)
    return PackageState(
        requirement=f"{requirement.name}{requirement.specifier}",
        name=requirement.name,
        version=version,
        satisfied=version is not None and requirement.specifier.contains(version, prereleases=True),
        importable=version is not None and (module is None or importlib.util.find_spec(module) is not None),
    )


def installed_version(name: str) -> str | None:
    """Return a distribution's version, None when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def torch_cuda() -> tuple[str | None, str] | None:
    """Return the CUDA version torch was built for (None for a CPU build) and where that stands; None without torch."""
    try:
        path = metadata.distribution("torch").locate_file("torch/version.py")
        text = Path(str(path)).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        return None
    return parse_torch_cuda(text), str(path)


def parse_torch_cuda(version_py: str) -> str | None:
    """Read `cuda` out of torch/version.py without importing torch."""
    found = _CUDA_LINE.search(version_py)
    value = found["value"].strip("'\"") if found else "None"
    return None if value == "None" else value
