"""The installed packages against what this project pins, read from metadata only: nothing is imported."""

from __future__ import annotations

from importlib import metadata

from packaging.requirements import Requirement

PROJECT = "edgekiln"
_EXTRAS = ("", "teacher", "train")  # what a job from prompts to GGUF needs; "" are the core's own


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


def installed_version(name: str) -> str | None:
    """Return a distribution's version, None when it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
