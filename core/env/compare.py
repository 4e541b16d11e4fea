"""Compares two documents of `edgekiln env --json`: what is better, worse, new or gone in B, and what makes B like A."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ValidationError

from core.contract import Contract, Finding, Severity
from core.env.document import SCHEMA_VERSION, EnvDocument
from core.env.roles import RoleVerdict
from core.errors import BadConfig

MAX_DOCUMENT_BYTES = 8 << 20
_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")  # of a package, PEP 508; the file is somebody else's


class Move(StrEnum):
    """How something in B stands to what it is in A."""

    REGRESSED = "regressed"
    NEW = "new"
    CHANGED = "changed"
    IMPROVED = "improved"
    GONE = "gone"


class Compared(Contract):
    """One thing that differs; None is "not there"."""

    move: Move
    what: str
    name: str
    a: str | None
    b: str | None


class Todo(Contract):
    """One thing to do on B to become A; `argv` is empty where a person must do it."""

    why: str
    remedy: str
    argv: tuple[str, ...] = ()


class Comparison(Contract):
    """Two machines or moments side by side."""

    differences: tuple[Compared, ...]
    todo: tuple[Todo, ...]


class _Head(BaseModel):
    schema_version: int


def read_document(path: Path) -> EnvDocument:
    """Read a document somebody wrote; BadConfig when it is too large, none at all, or of another schema version."""
    if not path.is_file():
        what = "is no regular file" if path.exists() else "is not there"
        raise BadConfig(f"{path} {what}", remedy="Write one with `edgekiln env --json -o FILE`.")
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise BadConfig(f"{path} has > {MAX_DOCUMENT_BYTES} bytes", remedy="Name a file of `edgekiln env --json`.")
    data = path.read_bytes()
    try:
        head = _Head.model_validate_json(data)
    except ValidationError as error:
        raise _no_document(path, error) from error
    if head.schema_version != SCHEMA_VERSION:
        raise BadConfig(
            f"{path}: schema_version {head.schema_version} != {SCHEMA_VERSION}, which this edgekiln reads",
            remedy="Write it again with the same edgekiln on both machines.",
        )
    try:
        return EnvDocument.model_validate_json(data)
    except ValidationError as error:
        raise _no_document(path, error) from error


def _no_document(path: Path, error: ValidationError) -> BadConfig:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return BadConfig(
        f"{path} is no document of `edgekiln env --json`: {where}: {first['msg'][:200]}",
        remedy="Write it again with `edgekiln env --json -o FILE`.",
    )


def compare(a: EnvDocument, b: EnvDocument) -> Comparison:
    """Return what differs in B from A, the worst first, and what to do on B."""
    told = [
        *_roles(a, b),
        *_findings(a, b),
        *_values("package", _packages(a), _packages(b)),
        *_values("fact", *_facts(a, b)),
    ]
    order = list(Move)
    ranked = sorted(told, key=lambda one: order.index(one.move))
    return Comparison(differences=tuple(ranked), todo=(*_by_packages(a, b), *_by_findings(a, b)))


def _roles(a: EnvDocument, b: EnvDocument) -> Iterator[Compared]:
    order = list(RoleVerdict)
    for role in sorted(a.roles.keys() | b.roles.keys()):
        old, new = a.roles.get(role), b.roles.get(role)
        if old == new:
            continue
        if old is None or new is None:
            move = Move.NEW if old is None else Move.GONE
        else:
            move = Move.REGRESSED if order.index(new) > order.index(old) else Move.IMPROVED
        yield Compared(move=move, what="role", name=role, a=old, b=new)


def _keyed(findings: Iterable[Finding]) -> dict[tuple[str, str], Finding]:
    return {(finding.code, finding.where): finding for finding in findings}


def _findings(a: EnvDocument, b: EnvDocument) -> Iterator[Compared]:
    old, new = _keyed(a.findings), _keyed(b.findings)
    for key in dict.fromkeys([*new, *old]):
        before, after = old.get(key), new.get(key)
        move = _moved(before, after)
        if move is not None:
            yield Compared(move=move, what="finding", name=" ".join(key), a=_told(before), b=_told(after))


def _moved(before: Finding | None, after: Finding | None) -> Move | None:
    if before is None or after is None:
        return Move.NEW if before is None else Move.GONE
    order = list(Severity)  # the worst first
    if before.severity is after.severity:
        return None
    return Move.REGRESSED if order.index(after.severity) < order.index(before.severity) else Move.IMPROVED


def _told(finding: Finding | None) -> str | None:
    return f"{finding.severity.value}: {finding.evidence}" if finding else None


def _packages(document: EnvDocument) -> dict[str, str]:
    return document.tools


def _facts(a: EnvDocument, b: EnvDocument) -> tuple[dict[str, str], dict[str, str]]:
    return {fact.name: fact.value for fact in a.facts}, {fact.name: fact.value for fact in b.facts}


def _values(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Compared]:
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if before != after:
            move = Move.CHANGED if before and after else Move.NEW if after else Move.GONE
            yield Compared(move=move, what=what, name=name, a=before, b=after)


def _by_packages(a: EnvDocument, b: EnvDocument) -> Iterator[Todo]:
    """Yield one command for all packages that are another version or missing on B, one for those that A does not have."""
    old, new = _packages(a), _packages(b)
    if old.get("python") != new.get("python") and old.get("python"):
        why = f"Python {new.get('python')} instead of {old['python']}"
        yield Todo(why=why, remedy=f"Make the virtual environment with Python {old['python']}.")
    differ = {
        name: version for name, version in sorted(old.items()) if new.get(name) != version and _is_package(name, version)
    }
    if differ:
        argv = ("python", "-m", "pip", "install", *(f"{name}=={version}" for name, version in differ.items()))
        yield Todo(why=f"packages missing or of another version: {len(differ)}", remedy="Install A's versions.", argv=argv)
    extra = [name for name, version in sorted(new.items()) if name not in old and _is_package(name, version)]
    if extra:
        argv = ("python", "-m", "pip", "uninstall", "--yes", *extra)
        yield Todo(why=f"packages that A does not have: {len(extra)}", remedy="Uninstall them.", argv=argv)


def _is_package(name: str, version: str) -> bool:
    try:
        return name != "python" and _NAME.match(name) is not None and Version(version) is not None
    except InvalidVersion:
        return False


def _by_findings(a: EnvDocument, b: EnvDocument) -> Iterator[Todo]:
    old = _keyed(a.findings)
    for key, finding in _keyed(b.findings).items():
        if _moved(old.get(key), finding) in {Move.NEW, Move.REGRESSED} and finding.severity is not Severity.INFO:
            yield Todo(why=f"{finding.code} {finding.where}", remedy=finding.remedy, argv=finding.remedy_argv)
