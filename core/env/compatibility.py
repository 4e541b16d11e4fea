"""Which versions work together: the matrix of configs/compatibility.yaml, its reading, and its judgement of a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from core.config import shipped
from core.contract import Confidence, Contract, Finding, Severity
from core.errors import BadConfig
from core.yaml_file import read_yaml

CODE = "compatibility"


def _checked(text: str) -> str:
    try:
        SpecifierSet(text)
    except InvalidSpecifier as error:
        raise ValueError(f"{text!r} is no range of versions") from error
    return text


Range = Annotated[str, AfterValidator(_checked)]
Subject = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]


class Rule(Contract):
    """Where everything under `when` holds, everything under `needs` must hold; both map a subject to a range of versions."""

    id: Subject
    when: dict[Subject, Range] = Field(min_length=1)
    needs: dict[Subject, Range] = Field(min_length=1)
    severity: Literal["error", "warning"]
    because: str = Field(min_length=1)
    remedy: str = Field(min_length=1)
    source: str = Field(min_length=1)


class Matrix(Contract):
    """All rules; `version` says which edition of them."""

    schema_version: Literal[1]
    version: str
    rules: tuple[Rule, ...]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Matrix:
        ids = [rule.id for rule in self.rules]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"rules share an id: {', '.join(twice)}")
        return self


class Seen(Contract):
    """One subject as it is here, and where that was read; a GPU's capability is seen once for each GPU."""

    subject: str
    version: str
    source: str


def read_matrix(path: Path | None = None) -> Matrix:
    """Read the shipped matrix, or another file of its form; BadConfig names every mistake in it."""
    path = path or shipped("compatibility.yaml")
    tree = read_yaml(path)
    try:
        return Matrix.model_validate({**tree, "version": str(tree.get("version", ""))})
    except ValidationError as error:
        mistakes = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadConfig(f"{path.name}: {mistakes}", remedy="Mend the named keys in that file.") from error


def compatibility_findings(matrix: Matrix, seen: Sequence[Seen]) -> list[Finding]:
    """Return a finding for every need of an applying rule that something seen does not meet."""
    here: dict[str, list[Seen]] = {}
    for one in seen:
        here.setdefault(one.subject, []).append(one)
    return [finding for rule in matrix.rules if _applies(rule, here) for finding in _unmet(rule, here)]


def _applies(rule: Rule, here: Mapping[str, Sequence[Seen]]) -> bool:
    return all(any(_within(one, asked) for one in here.get(subject, ())) for subject, asked in rule.when.items())


def _unmet(rule: Rule, here: Mapping[str, Sequence[Seen]]) -> Iterator[Finding]:
    for subject, asked in rule.needs.items():
        for one in here.get(subject, ()):
            if not _within(one, asked):
                yield _finding(rule, here, one, asked)


def _finding(rule: Rule, here: Mapping[str, Sequence[Seen]], one: Seen, asked: str) -> Finding:
    given = ", ".join(f"{subject} {here[subject][0].version}" for subject in rule.when if subject != one.subject)
    beside = f" beside {given}" if given else ""
    return Finding(
        code=CODE,
        severity=Severity(rule.severity),
        where=one.subject,
        evidence=f"{one.subject} {one.version} ({one.source}){beside}, needed is {asked} (rule {rule.id}; {rule.source})",
        cause=rule.because,
        confidence=Confidence.HIGH,
        remedy=rule.remedy,
    )


def _within(one: Seen, asked: str) -> bool:
    """Whether a version lies in a range; a local part such as +cpu does not count, a version that is none lies nowhere."""
    try:
        return SpecifierSet(asked).contains(Version(one.version).public, prereleases=True)
    except InvalidVersion:
        return False
