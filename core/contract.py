"""The nouns' shared parts: contract base, file reference, artifact, finding, limit, verdict. The nouns are in nouns.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ArtifactId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]

SCHEMA_VERSION: Literal[1] = 1


class Contract(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Stage(StrEnum):
    """What makes artifacts: the seven stages of the chain in the order they run, and the search beside them."""

    ENV = "env"
    DATA = "data"
    LABEL = "label"
    TRAIN = "train"
    EXPORT = "export"
    BENCH = "bench"
    INGEST = "ingest"
    SEARCH = "search"


CHAIN = tuple(stage for stage in Stage if stage is not Stage.SEARCH)
"""The seven stages. A search feeds none of them: what it found enters a run through its configuration."""


def onward(names: Iterable[str]) -> frozenset[Stage]:
    """Return the earliest of the named stages and all that is made from it, none for no name; ValueError for no stage."""
    stages = {Stage(name) for name in names}
    first = min((CHAIN.index(stage) for stage in stages if stage in CHAIN), default=len(CHAIN))
    searches = {Stage.SEARCH} if first <= CHAIN.index(Stage.LABEL) else set()
    return frozenset(CHAIN[first:]) | searches | stages


class Origin(StrEnum):
    """How a number was obtained. Only measured ones enter baselines, gates and recommendations."""

    MEASURED = "measured"
    EMULATED = "emulated"
    SIMULATED = "simulated"
    VENDOR = "vendor"
    PREDICTED = "predicted"


class FileRef(Contract):
    """One file of an artifact; `path` is relative to the artifact's folder and uses '/'."""

    path: str
    sha256: Sha256
    bytes: int = Field(ge=0)
    carries_meaning: bool = True


class ParentRef(Contract):
    """An artifact another one was made from."""

    stage: Stage
    artifact_id: ArtifactId
    content_digest: Sha256


class Severity(StrEnum):
    """How much a finding matters: an error stops or sets aside, a warning is told, info is only recorded."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Confidence(StrEnum):
    """How sure a finding is of its cause."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Finding(Contract):
    """Something noticed about a machine, a row, a memory module, a database or a configuration; an error blocks.

    `remedy` is the sentence, `remedy_argv` the same as a program's argument list where one program mends it, `verify_argv`
    the program that shows it is mended. `roles` are those it matters to, none for every role. `symptoms` are the codes of
    findings that this one explains.
    """

    code: str
    severity: Severity
    where: str
    evidence: str
    cause: str
    remedy: str
    confidence: Confidence | None = None
    remedy_argv: tuple[str, ...] = ()
    verify_argv: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()


class Limit(Contract):
    """A bound on a metric, read as `metric op value`."""

    metric: str
    op: Literal["<", "<=", ">", ">=", "=="]
    value: FiniteFloat


class LimitFailure(Contract):
    """A limit that was not met; `measured` is None when the metric was never measured."""

    limit: Limit
    measured: float | None


class Verdict(Contract):
    """The outcome of a gate."""

    passed: bool
    failures: tuple[LimitFailure, ...] = ()


_COMPARE = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
}


def judge(limits: Iterable[Limit], metrics: Mapping[str, float]) -> Verdict:
    """Judge metrics by limits; a metric that is missing or NaN fails its limit."""
    failures = tuple(
        LimitFailure(limit=limit, measured=metrics.get(limit.metric))
        for limit in limits
        if not _holds(limit, metrics.get(limit.metric))
    )
    return Verdict(passed=not failures, failures=failures)


def _holds(limit: Limit, measured: float | None) -> bool:
    return measured is not None and bool(_COMPARE[limit.op](measured, limit.value))


class Artifact(Contract):
    """What every noun carries: it is the manifest of its folder.

    `identity` is the hash the artifact is reused by; `occasion` opens a new artifact of the same identity (env, bench).
    `metrics` are the figures the gate judges; `config` is the resolved section; `tools` maps a tool to its version or
    commit; `content_digest` is over the files that carry meaning; `seal` is over the manifest itself.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    artifact_id: ArtifactId
    identity: Sha256
    occasion: str | None = None
    stage: Stage
    parents: tuple[ParentRef, ...]
    inputs: tuple[str, ...] = ()
    created_at: AwareDatetime
    config: dict[str, Any]
    tools: dict[str, str]
    files: tuple[FileRef, ...]
    content_digest: Sha256
    metrics: dict[str, FiniteFloat] = {}
    verdict: Verdict
    seal: Sha256

    def as_parent(self) -> ParentRef:
        """Return the reference a child keeps."""
        return ParentRef(stage=self.stage, artifact_id=self.artifact_id, content_digest=self.content_digest)

    def file(self, path: str) -> FileRef:
        """Return the file reference for a relative path; KeyError when the artifact has no such file."""
        for ref in self.files:
            if ref.path == path:
                return ref
        raise KeyError(path)


def utc(moment: datetime) -> str:
    """Format an aware time as RFC 3339 with seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
