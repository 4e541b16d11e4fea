"""Checks of other packages: each an entry point in the group `edgekiln.env_checks`, run as a probe, never imported here.

The entry point's name is the check's code, its value `module:function`. The function takes a dictionary with `profile` (the
whole profile), `roles`, `workspace` and `cache`, and returns `Told`. In a package's pyproject.toml:

    [project.entry-points."edgekiln.env_checks"]
    shop-floor = "shop_floor.doctor:look"
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from pydantic import TypeAdapter, ValidationError

from core.contract import Contract, Finding, Severity
from core.env.capability import Capability, Check, Context, Readings, value_of
from core.env.probe import Probe, ProbeName, Target
from core.env.roles import Role
from core.nouns import Fact

GROUP = "edgekiln.env_checks"
_NAME = TypeAdapter(ProbeName)
_TARGET = TypeAdapter(Target)


class Told(Contract):
    """What a third party's check returns; the code of its findings becomes the entry point's name."""

    findings: tuple[Finding, ...] = ()
    facts: tuple[Fact, ...] = ()


def entry_points() -> tuple[metadata.EntryPoint, ...]:
    """Return the group's entry points, sorted by name."""
    return tuple(sorted(metadata.entry_points(group=GROUP), key=lambda point: (point.name, point.value)))


def versions(points: Iterable[metadata.EntryPoint]) -> dict[str, str]:
    """Return what decides a check's answer beside the machine: its target and its package's version."""
    return {f"check {point.name}": f"{point.value} {point.dist.version if point.dist else 'unknown'}" for point in points}


def capabilities(points: Iterable[metadata.EntryPoint], taken: Iterable[str]) -> list[Capability]:
    """Return a part of the doctor for each entry point; one with a bad or taken name is a part that only says so."""
    codes, made = set(taken), []
    for point in points:
        why = _mistake(point, codes)
        made.append(_refused(point, why, taken=point.name in codes) if why else _capability(point))
        codes.add(point.name)
    return made


def _mistake(point: metadata.EntryPoint, codes: set[str]) -> str | None:
    if point.name in codes:
        return f"its name {point.name} is taken by another check"
    for adapter, text in ((_NAME, point.name), (_TARGET, point.value)):
        try:
            adapter.validate_python(text)
        except ValidationError:
            return f"{point.name} = {point.value} is not `code = module:function`"
    return None


def _capability(point: metadata.EntryPoint) -> Capability:
    name = f"third-party.{point.name}"

    def probes(context: Context) -> list[Probe]:
        argument = {
            "profile": context.profile.model_dump(mode="json"),
            "roles": sorted(context.roles),
            "workspace": str(context.workspace),
            "cache": str(context.cache),
        }
        return [Probe(name=name, target=point.value, argument=argument, timeout_s=context.config.probe_timeout_s)]

    def findings(readings: Readings, _context: Context) -> list[Finding]:
        reading = readings.get(name)
        if reading is not None and reading.error:
            return [_broken(point, reading.error)]
        try:
            told = value_of(readings, name, Told)
        except ValidationError as error:
            return [_broken(point, f"it did not return core.env.third_party.Told: {error.error_count()} mistakes")]
        return [_named(finding, point) for finding in told.findings] if told else []

    def facts(readings: Readings, _context: Context) -> list[Fact]:
        try:
            told = value_of(readings, name, Told)
        except ValidationError:
            return []  # findings() says so
        return list(told.facts) if told else []

    return Capability(name=name, checks=(Check(code=point.name),), probes=probes, findings=findings, facts=facts)


def _named(finding: Finding, point: metadata.EntryPoint) -> Finding:
    strange = [role for role in finding.roles if role not in set(Role)]
    if strange:
        return _broken(point, f"its finding {finding.code} names {strange[0]!r}, which is none of {', '.join(Role)}")
    return finding.model_copy(update={"code": point.name})


def _refused(point: metadata.EntryPoint, why: str, *, taken: bool) -> Capability:
    return Capability(
        name=f"third-party.{point.value}",
        checks=(Check(code=point.name),),
        probes=lambda _context: [],
        findings=lambda _readings, _context: [_broken(point, why, taken=taken)],
    )


def _broken(point: metadata.EntryPoint, evidence: str, *, taken: bool = False) -> Finding:
    package = point.dist.name if point.dist else point.value
    skip = "" if taken else f", or leave the check out: --set env.skip='[{point.name}]'"  # it would be the other check
    return Finding(
        code=point.name,
        severity=Severity.WARNING,
        where=f"{package} ({point.value})",
        evidence=evidence,
        cause="this third-party check is broken",
        remedy=f"Mend or remove the package {package}{skip}.",
        remedy_argv=("pip", "uninstall", package),
        verify_argv=("edgekiln", "env", "--no-cache"),
    )
