"""The doctor's part for libraries: what is installed, whole and in agreement, and whether the versions work together here."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from core.contract import Confidence, Finding, Severity
from core.env import faults, packages, survey
from core.env.accelerators import gpu_reading, torch_facts
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.compatibility import CODE as COMPATIBILITY
from core.env.compatibility import Seen, compatibility_findings, read_matrix
from core.env.gpu import GpuReading
from core.env.installed import Installer, Source, Survey
from core.env.probe import Probe
from core.env.roles import EVERY, Role
from core.env.torch_build import Build
from core.nouns import Fact

PROBE = "libraries.survey"
_TIMEOUT_S = 15.0  # a second warm, more on a cold disk: every file of every package is looked at
_CONFLICTS = "conflicts"
_PIP = Installer("pip", ("python", "-m", "pip"))
_PIP_CHECK = ("python", "-m", "pip", "check")
_TOLD_WHEN_PRESENT = {
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-gpu": "ONNX Runtime",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
}


def read(_argument: dict[str, Any]) -> Survey:
    """Survey the environment that runs this process."""
    return Survey.model_validate(survey.survey())


def probes(_context: Context) -> list[Probe]:
    """Return the one probe: the survey of this environment."""
    return [Probe(name=PROBE, target="core.env.libraries:read", timeout_s=_TIMEOUT_S)]


def survey_of(readings: Readings) -> Survey | None:
    """Return what was surveyed, None when that process failed."""
    return value_of(readings, PROBE, Survey)


def findings(readings: Readings, _context: Context) -> list[Finding]:
    """Judge the packages alone, against each other, and against driver and GPUs."""
    found = survey_of(readings)
    if found is None:
        return []
    torch = torch_facts(readings)
    seen = subjects(found, torch.build if torch else None, gpu_reading(readings))
    return [*package_findings(found), *conflict_findings(found), *compatibility_findings(read_matrix(), seen)]


def package_findings(found: Survey) -> list[Finding]:
    """Return what is torn, missing or of another version among what the project needs, and every torn package beside it."""
    if packages.PROJECT not in found.versions():
        return [_not_installed(found)]
    wish = faults.Wish(tuple(_wanted()), {})
    told = [faults.finding_of(fault, _PIP, Source()) for fault in faults.find_faults(found, wish)]
    return [finding.model_copy(update={"verify_argv": _PIP_CHECK}) for finding in told]


def _wanted() -> Iterator[Requirement]:
    """Yield what the project needs, without the markers that were judged already."""
    for requirement in packages.requirements():
        requirement.marker = None
        yield requirement


def _not_installed(found: Survey) -> Finding:
    return Finding(
        code=faults.CODE,
        severity=Severity.ERROR,
        where=found.prefix,
        evidence=f"{packages.PROJECT} has no metadata in this environment",
        cause="it runs from its source folder and was never installed here",
        confidence=Confidence.HIGH,
        remedy="make setup",
        remedy_argv=("make", "setup"),
        verify_argv=("python", "-m", "pip", "show", packages.PROJECT),
    )


def conflict_findings(found: Survey) -> list[Finding]:
    """Return what `pip check` would say of packages the project does not need: they disturb it rarely, so they only warn."""
    ours = _needed(found)
    versions = found.versions()
    return [
        _conflict(asker.name, str(asker.version), requirement, versions.get(str(canonicalize_name(requirement.name))))
        for asker in found.distributions
        if asker.key not in ours
        for requirement in _requirements(asker.requires, found)
        if not _met(requirement, versions)
    ]


def _needed(found: Survey) -> frozenset[str]:
    """Return the names of everything that the project's requirements bring, which package_findings judges."""
    requires = {one.key: one.requires for one in found.distributions}
    todo, seen = [str(canonicalize_name(wanted.name)) for wanted in packages.requirements()], {packages.PROJECT}
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [str(canonicalize_name(r.name)) for r in _requirements(requires.get(name, ()), found)]
    return frozenset(seen)


def _requirements(texts: Sequence[str], found: Survey) -> Iterator[Requirement]:
    for text in texts:
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue  # from before the standard
        if wanted.marker is None or wanted.marker.evaluate({**found.markers, "extra": ""}):
            yield wanted


def _met(wanted: Requirement, versions: dict[str, str]) -> bool:
    version = versions.get(str(canonicalize_name(wanted.name)))
    try:
        return version is not None and wanted.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _conflict(asker: str, version: str, wanted: Requirement, here: str | None) -> Finding:
    return Finding(
        code=_CONFLICTS,
        severity=Severity.WARNING,
        where=asker,
        evidence=f"{asker} {version} asks for {wanted.name}{wanted.specifier}, {here or 'none'} is installed",
        cause="it was installed beside this project and wants another set of packages",
        confidence=Confidence.HIGH,
        remedy=f"Give {asker} an environment of its own, or uninstall it here.",
        verify_argv=_PIP_CHECK,
    )


def subjects(found: Survey, torch: Build | None, gpus: GpuReading) -> list[Seen]:
    """Return what the matrix speaks of, as it is here."""
    seen = [Seen(subject=name, version=version, source="metadata") for name, version in sorted(found.versions().items())]
    seen.append(Seen(subject="python", version=platform.python_version(), source=found.python))
    if torch and torch.cuda:
        seen.append(Seen(subject="cuda", version=torch.cuda, source=torch.path))
    if torch and torch.hip:
        seen.append(Seen(subject="rocm", version=".".join(torch.hip.split(".")[:2]), source=torch.path))
    if gpus.driver:
        seen.append(Seen(subject="nvidia-driver", version=gpus.driver, source="NVML"))
    for gpu in gpus.gpus:
        if gpu.compute_capability:
            source = f"GPU {gpu.index} {gpu.name}, NVML"
            seen.append(Seen(subject="compute-capability", version=gpu.compute_capability, source=source))
    return seen


def facts(readings: Readings, _context: Context) -> list[Fact]:
    """Tell the matrix's edition and the frameworks that are here without being needed."""
    found = survey_of(readings)
    if found is None:
        return []
    beside = {_TOLD_WHEN_PRESENT[key]: version for key, version in found.versions().items() if key in _TOLD_WHEN_PRESENT}
    told = [Fact(name=name, value=version, source="metadata") for name, version in sorted(beside.items())]
    matrix = read_matrix()
    edition = Fact(name="compatibility matrix", value=f"{matrix.version}, {len(matrix.rules)} rules", source="configs")
    return [Fact(name="packages", value=f"{len(found.distributions)} in {found.prefix}", source="metadata"), edition, *told]


LIBRARIES = Capability(
    name="libraries",
    checks=(
        Check(code=faults.CODE, blocks=EVERY),
        Check(code=_CONFLICTS, blocks=EVERY),
        Check(code=COMPATIBILITY, blocks=frozenset({Role.TRAINER, Role.EXPORTER, Role.LABELER, Role.SERVER})),
    ),
    probes=probes,
    findings=findings,
    facts=facts,
)
