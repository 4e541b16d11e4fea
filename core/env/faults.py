"""What is wrong with the packages of an environment, judged from a survey and what the project asks for. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from core.contract import Contract, Finding, Severity
from core.env.installed import Distribution, Installer, Source, Survey

CODE = "packages"
_OURS = {"", "pip", "uv"}  # what another installer (a system's, conda's) brought is not ours to mend
_MAX_PINS_BYTES = 1 << 20


class FaultKind(StrEnum):
    """What can be wrong with a package."""

    MISSING = "missing"
    VERSION = "wrong version"
    BUILD = "wrong build"
    INCOMPLETE = "files missing"
    NO_METADATA = "broken metadata"
    DOUBLE = "installed twice"
    LEFTOVER = "left behind"


class Fault(Contract):
    """One thing wrong with a package.

    `requirement` is what to install, None when nothing is; `again` replaces it even if the version is right; `clear` are
    folders to take away first; `by_hand` says what a person must do where no installer can.
    """

    kind: FaultKind
    name: str
    evidence: str
    cause: str
    requirement: str | None = None
    again: bool = False
    clear: tuple[str, ...] = ()
    by_hand: str | None = None
    blocks: bool = True

    @property
    def deed(self) -> str:
        """What would be done, in words."""
        if self.by_hand is not None:
            return f"by hand: {self.by_hand}"
        cleared = f"remove {', '.join(Path(path).name for path in self.clear)}" if self.clear else ""
        verb = "install again" if self.again else "install"
        installed = f"{verb} {self.requirement}" if self.requirement else ""
        return ", then ".join(part for part in (cleared, installed) if part)


@dataclass(frozen=True)
class Wish:
    """What an environment must have: requirements, exact pins by canonical name, and whether a GPU is to be used."""

    requirements: tuple[Requirement, ...]
    pins: Mapping[str, str]
    accelerated: bool = False


def read_pins(path: Path | None) -> dict[str, str]:
    """Return `name==version` lines of a constraints file by canonical name; other lines are passed over."""
    if path is None or not path.is_file() or path.stat().st_size > _MAX_PINS_BYTES:
        return {}
    parts = [line.partition("==") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return {canonicalize_name(name.strip()): version.strip() for name, sign, version in parts if sign and name[:1] != "#"}


def find_faults(found: Survey, wish: Wish) -> list[Fault]:
    """Return what is wrong: torn installations first, then what is missing or another version, then what was left behind."""
    groups: dict[str, list[Distribution]] = {}
    for distribution in found.distributions:
        groups.setdefault(distribution.key, []).append(distribution)
    needs = _closure(found, wish, groups)
    torn = {key: fault for key, held in groups.items() if (fault := _torn(held, needs.get(key), wish))}
    unmet = [fault for need in needs.values() if need.key not in torn and (fault := _unmet(need, groups, wish))]
    return [*torn.values(), *unmet, *(_leftover(path) for path in found.leftovers)]


@dataclass
class _Need:
    """All that is asked of one package, and by whom."""

    name: str
    specifier: SpecifierSet
    askers: list[str]

    @property
    def key(self) -> str:
        return str(canonicalize_name(self.name))

    def exact(self, pins: Mapping[str, str]) -> str:
        """Return the requirement to install: the pinned version where it serves."""
        pin = pins.get(self.key)
        if pin is not None and self.specifier.contains(pin, prereleases=True):
            return f"{self.name}=={pin}"
        return f"{self.name}{self.specifier}"


def _closure(found: Survey, wish: Wish, groups: Mapping[str, Sequence[Distribution]]) -> dict[str, _Need]:
    """Return what the wish and everything it brings ask for, by canonical name."""
    needs: dict[str, _Need] = {}
    seen: set[tuple[str, str, str]] = set()
    todo = [("this project", requirement, frozenset[str]()) for requirement in wish.requirements]
    while todo:
        asker, wanted, extras = todo.pop(0)
        key = str(canonicalize_name(wanted.name))
        if (asker, key, str(wanted)) in seen or not _applies(wanted, found.markers, extras):
            continue
        seen.add((asker, key, str(wanted)))
        need = needs.setdefault(key, _Need(wanted.name, SpecifierSet(), []))
        need.specifier &= wanted.specifier
        need.askers.append(f"{asker} asks for {wanted.name}{wanted.specifier}")
        for held in groups.get(key, ())[:1]:
            todo += [(held.name, inner, frozenset(wanted.extras)) for inner in _parsed(held.requires)]
    return needs


def _parsed(texts: Iterable[str]) -> list[Requirement]:
    parsed = []
    for text in texts:
        try:
            parsed.append(Requirement(text))
        except InvalidRequirement:
            continue  # metadata from before the standard; pip says so when it matters
    return parsed


def _applies(wanted: Requirement, markers: Mapping[str, str], extras: frozenset[str]) -> bool:
    if wanted.marker is None:
        return True
    return any(wanted.marker.evaluate({**markers, "extra": extra}) for extra in (*extras, ""))


def _torn(held: Sequence[Distribution], need: _Need | None, wish: Wish) -> Fault | None:
    """Judge whether one package is whole: one set of metadata, all of it, and every file it lists."""
    ours = [one for one in held if one.installer in _OURS]
    if len(held) > 1 and ours:
        told = ", ".join(Path(one.folder).name for one in held)
        fault = _again(FaultKind.DOUBLE, held[0], f"{told} lie side by side", need, wish)
        return fault.model_copy(update={"clear": tuple(one.folder for one in ours), "again": False})
    one = held[0]
    if not ours:
        return None
    if not (one.has_metadata and one.has_record):
        lacks = " and ".join(
            name for name, there in (("METADATA", one.has_metadata), ("RECORD", one.has_record)) if not there
        )
        fault = _again(FaultKind.NO_METADATA, one, f"{Path(one.folder).name} has no {lacks}", need, wish)
        return fault.model_copy(update={"clear": (one.folder,), "again": False})
    if one.broken_count:
        more = f" (and {one.broken_count - 1} more)" if one.broken_count > 1 else ""
        return _again(FaultKind.INCOMPLETE, one, f"{one.name} {one.version}: {one.broken_files[0]}{more}", need, wish)
    return None


def _again(kind: FaultKind, one: Distribution, evidence: str, need: _Need | None, wish: Wish) -> Fault:
    """Return a fault mended by installing the package once more: the version asked for, else the one that is there."""
    requirement, by_hand = _same(one, need, wish)
    return Fault(
        kind=kind,
        name=one.name,
        evidence=evidence,
        cause="its installation was interrupted, or files were removed",
        requirement=requirement,
        again=True,
        by_hand=by_hand,
        blocks=need is not None,
    )


def _same(one: Distribution, need: _Need | None, wish: Wish) -> tuple[str | None, str | None]:
    if one.editable or one.origin.get("vcs_info") or one.origin.get("dir_info") is not None:
        return None, f"install {one.name} again from {one.origin['url']}"
    if need is not None and (one.version is None or not need.specifier.contains(one.version, prereleases=True)):
        return need.exact(wish.pins), None
    if one.origin.get("url"):
        return f"{one.name} @ {one.origin['url']}", None
    return (f"{one.name}=={one.version}" if one.version else one.name), None


def _unmet(need: _Need, groups: Mapping[str, Sequence[Distribution]], wish: Wish) -> Fault | None:
    held = groups.get(need.key)
    if not held:
        evidence = f"{need.name} is not installed, {need.askers[0]}"
        return Fault(
            kind=FaultKind.MISSING,
            name=need.name,
            evidence=evidence,
            cause="it was never installed here, or was removed",
            requirement=need.exact(wish.pins),
        )
    version = held[0].version or ""
    if not _serves(version, need.specifier):
        unhappy = next((asker for asker in need.askers if not _serves(version, _asked(asker))), need.askers[0])
        return Fault(
            kind=FaultKind.VERSION,
            name=need.name,
            evidence=f"{need.name} {version} is installed, {unhappy}",
            cause="another version was installed",
            requirement=need.exact(wish.pins),
        )
    return _wrong_build(need, version, wish)


def _serves(version: str, specifier: SpecifierSet) -> bool:
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _asked(asker: str) -> SpecifierSet:
    return Requirement(asker.rpartition(" asks for ")[2]).specifier


def _wrong_build(need: _Need, version: str, wish: Wish) -> Fault | None:
    parsed = Version(version)
    if not wish.accelerated or parsed.local != "cpu":
        return None
    public = parsed.public
    return Fault(
        kind=FaultKind.BUILD,
        name=need.name,
        evidence=f"{need.name} {version} is the CPU build although there is a GPU",
        cause="the CPU-only wheel is installed on a GPU machine",
        requirement=f"{need.name}=={public},!={public}+cpu",  # == alone would be met by the CPU build
    )


def _leftover(path: str) -> Fault:
    return Fault(
        kind=FaultKind.LEFTOVER,
        name=Path(path).name,
        evidence=f"{path} is what an installer renames a package to while it replaces it",
        cause="pip was killed",
        clear=(path,),
        blocks=False,
    )


def finding_of(fault: Fault, installer: Installer, source: Source) -> Finding:
    """Return a fault as a finding, with the argument list that mends it where one program does."""
    argv = installer.install([fault.requirement], source, again=fault.again) if fault.requirement else []
    whole = fault.requirement is not None and not fault.clear
    return Finding(
        code=CODE,
        severity=Severity.ERROR if fault.blocks else Severity.WARNING,
        where=fault.name,
        evidence=fault.evidence,
        cause=fault.cause,
        remedy=fault.deed,
        remedy_argv=tuple(argv) if whole else (),
    )
