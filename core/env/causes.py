"""Root causes: which finding explains which others, as a table, and the grouping of symptoms under their cause."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from core.contract import Confidence, Contract, Finding, Severity

_WORST = (Severity.ERROR, Severity.WARNING, Severity.INFO)
_BROKEN_ENVIRONMENT = "environment"
_MANY_PACKAGES = 3  # so many broken packages are one broken environment, mended at once


class Symptom(Contract):
    """Findings of a code whose evidence holds the pattern `says`; an empty one takes all."""

    code: str
    says: str = ""

    def fits(self, finding: Finding) -> bool:
        """Whether a finding is of this kind."""
        return finding.code == self.code and re.search(self.says, finding.evidence) is not None


class Cause(Contract):
    """A finding, at least a warning, that explains others when they are there too."""

    root: Symptom
    explains: tuple[Symptom, ...]


def _cause(root: str, *explains: str | tuple[str, str], says: str = "") -> Cause:
    told = [Symptom(code=one) if isinstance(one, str) else Symptom(code=one[0], says=one[1]) for one in explains]
    return Cause(root=Symptom(code=root, says=says), explains=tuple(told))


_NO_MODULE = r"ImportError|ModuleNotFoundError|PackageNotFoundError"
_ON_GPU = r"(?i)cuda|gpu|rocm|hip|driver|kernel image"
_NO_MEMORY = "MemoryError|SIGKILL|allocate"
_NO_WAY = r"(?i)no way there|name resolution|could not resolve|network is unreachable"
_PACKAGES = ("compatibility", r"^(?!nvidia-driver |compute-capability )")  # what no other package mends is not theirs
# The first line that fits explains; a cause is explained only by causes above it, so that nothing runs in a circle.
CAUSES = (
    _cause("disk", ("cache", "No space left"), ("probe", "(?i)no space left"), "disk-speed"),
    _cause("torch-build", "cuda", "torch-gpu", ("trains", _ON_GPU)),
    _cause("gpu-lost", "cuda", "torch-gpu", ("trains", _ON_GPU)),
    _cause("cuda-driver", "torch-gpu", ("compatibility", "^nvidia-driver "), ("trains", _ON_GPU), ("probe", _ON_GPU)),
    _cause("gpu-arch", ("compatibility", "^compute-capability "), ("trains", _ON_GPU)),
    _cause("venv", "python", "interpreter", _BROKEN_ENVIRONMENT, "packages", _PACKAGES, ("probe", _NO_MODULE)),
    _cause("python", _BROKEN_ENVIRONMENT, "packages", ("probe", _NO_MODULE)),
    _cause("interpreter", _BROKEN_ENVIRONMENT, "packages", ("probe", _NO_MODULE)),
    _cause(
        _BROKEN_ENVIRONMENT, "packages", _PACKAGES, "conflicts", "trains", "converts", "torch-gpu", ("probe", _NO_MODULE)
    ),
    _cause("packages", "trains", "converts", ("probe", _NO_MODULE)),
    _cause("cuda", "torch-gpu", ("trains", _ON_GPU)),
    _cause("torch-gpu", ("trains", _ON_GPU)),
    _cause("ram", ("trains", _NO_MEMORY), ("converts", _NO_MEMORY)),
    _cause(
        "clock",
        *((code, "(?i)certificate") for code in ("hub", "teacher", "prefect")),
        ("remote", "service-remote-clock|SSLError"),
    ),
    _cause("network", *((code, _NO_WAY) for code in ("hub", "teacher", "prefect", "remote", "board", "probe"))),
)


def group(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings with every symptom under its root cause: worst first, in an order that is always the same.

    A cause takes its symptoms' evidence, codes and roles, and is as severe as the worst of them. Many broken packages
    become one finding, a broken environment.
    """
    told = sorted(set(findings), key=_key)
    told = sorted({*told, *_broken_environment(told)}, key=_key)
    under: dict[Finding, list[Finding]] = {}
    for finding in told:
        top = _top(finding, told)
        under.setdefault(top, [])
        if top is not finding:
            under[top].append(finding)
    return sorted((_merged(root, symptoms) for root, symptoms in under.items()), key=_key)


def _key(finding: Finding) -> tuple[int, str, str, str, str]:
    return (_WORST.index(finding.severity), finding.code, finding.where, finding.evidence, finding.model_dump_json())


def _top(finding: Finding, told: Sequence[Finding]) -> Finding:
    while (cause := _explanation(finding, told)) is not None:
        finding = cause
    return finding


def _explanation(finding: Finding, told: Sequence[Finding]) -> Finding | None:
    """Return the finding that explains another directly: by the first line of the table that does. What is only told needs none."""
    if finding.severity is Severity.INFO:
        return None
    for cause in CAUSES:
        if not any(symptom.fits(finding) for symptom in cause.explains):
            continue
        for other in told:
            if other.severity is not Severity.INFO and cause.root.fits(other):
                return other
    return None


def _broken_environment(told: Sequence[Finding]) -> list[Finding]:
    broken = [
        finding
        for finding in told
        if finding.code == "packages" and finding.severity is not Severity.INFO and _explanation(finding, told) is None
    ]
    if len(broken) < _MANY_PACKAGES:
        return []
    return [
        Finding(
            code=_BROKEN_ENVIRONMENT,
            severity=broken[0].severity,
            where="installed packages",
            evidence=f"{len(broken)} packages are not as they should be",
            cause="the environment was installed in part, or for another project",
            confidence=Confidence.MEDIUM,
            remedy="See what would be done with `edgekiln env fix`, then do it with `edgekiln env fix --apply`.",
            remedy_argv=("edgekiln", "env", "fix", "--apply"),
            verify_argv=("edgekiln", "env", "--no-cache"),
            roles=_roles(broken),
        )
    ]


def _merged(root: Finding, symptoms: Sequence[Finding]) -> Finding:
    if not symptoms:
        return root
    everything = (root, *symptoms)
    codes = {code for finding in symptoms for code in (finding.code, *finding.symptoms)}
    listed = "; ".join(f"{finding.code} {finding.where}: {finding.evidence}" for finding in symptoms)
    return root.model_copy(
        update={
            "severity": min((finding.severity for finding in everything), key=_WORST.index),
            "evidence": f"{root.evidence}; it explains: {listed}",
            "symptoms": tuple(sorted({*root.symptoms, *codes})),
            "roles": _roles(everything),
        }
    )


def _roles(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return all roles that are named; none when one finding concerns every role."""
    named = [finding.roles for finding in findings]
    return tuple(dict.fromkeys(role for roles in named for role in roles)) if all(named) else ()
