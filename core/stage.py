"""How every stage runs: identity, reuse with verification, staging, judging, publishing."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

from core.contract import Artifact, Limit, ParentRef, Stage, judge
from core.errors import ArtifactError, ArtifactMissing
from core.events import OnEvent, SetAside, StageFinished, StageReused, StageStarted
from core.files import digest_of, disk_full_is_an_error
from core.section import Section
from core.workspace import (
    Workspace,
    artifacts,
    describe_files,
    load,
    publish,
    seal_of,
    set_aside,
)

N = TypeVar("N", bound=Artifact)

_OF_THIS_MACHINE = {Stage.ENV, Stage.INGEST}  # what another one can do, or has in its database, says nothing of this one


@dataclass(frozen=True)
class Facts:
    """What a stage's work returns: the noun's own fields, the figures its gate judges, and files that carry no meaning."""

    own: Mapping[str, Any]
    metrics: Mapping[str, float] = field(default_factory=dict)
    without_meaning: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Order(Generic[N]):
    """A stage's work order; everything but `limits`, `max_age_s` and `keeps_progress` enters the identity.

    `version` is the stage's version constant: raise it when the same inputs give other bytes. `inputs` are hashes of
    what comes from outside. `max_age_s` is set for a stage with occasions (env, bench): a finished artifact of the
    same identity is reused while it is younger. `keeps_progress` leaves the scratch folder of a killed run in place.
    """

    noun: type[N]
    stage: Stage
    version: int
    config: Section
    parents: tuple[ParentRef, ...] = ()
    inputs: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    max_age_s: float | None = None
    keeps_progress: bool = False

    def identity(self) -> str:
        """Return the sha256 the artifact is reused by."""
        return digest_of(
            {
                "stage": self.stage.value,
                "version": self.version,
                "inputs": list(self.inputs),
                "parents": [parent.content_digest for parent in self.parents],
                "config": self.config.shaping(),
                "tools": dict(self.tools),
            }
        )


Work = Callable[[Path], Facts]


def produce(order: Order[N], workspace: Workspace, on_event: OnEvent, work: Work) -> N:
    """Return the artifact an order asks for, reused when a verified one is there, else made by `work` in a scratch folder.

    A finished artifact that is broken is moved to quarantine and made again. On reuse the gate is judged anew with the
    order's limits.
    """
    identity = order.identity()
    if order.stage not in workspace.force and (reused := _found(order, identity, workspace, on_event)):
        return reused
    staged = workspace.staging(order.stage, identity)
    occasion = _prepare(staged, order)
    artifact_id = _artifact_id(identity, occasion)
    on_event(StageStarted(stage=order.stage, artifact_id=artifact_id))
    started = time.perf_counter()
    content = staged / "content"
    with disk_full_is_an_error(staged):
        content.mkdir(parents=True, exist_ok=True)
        facts = work(content)
    artifact = _build(order, identity, occasion, facts, content)
    publish(workspace, content, artifact)
    if workspace.home:
        workspace.home.send(artifact)
    shutil.rmtree(staged, ignore_errors=True)
    seconds = time.perf_counter() - started
    on_event(StageFinished(stage=order.stage, artifact_id=artifact_id, seconds=seconds, verdict=artifact.verdict))
    return artifact


def _found(order: Order[N], identity: str, workspace: Workspace, on_event: OnEvent) -> N | None:
    """Return a finished artifact that lies here, else one that is fetched from the workspace's second home."""
    if found := _reuse(order, identity, workspace, on_event):
        return found
    if workspace.home is None or order.stage in _OF_THIS_MACHINE:
        return None
    youngest = None if order.max_age_s is None else _youngest(order)
    if not workspace.home.fetch(order.stage, identity, youngest):
        return None
    return _reuse(order, identity, workspace, on_event)


def _reuse(order: Order[N], identity: str, workspace: Workspace, on_event: OnEvent) -> N | None:
    artifact_id = _newest_id(order, identity, workspace) if order.max_age_s is not None else identity[:12]
    if artifact_id is None:
        return None
    try:
        found = load(workspace, order.stage, artifact_id, order.noun)
    except ArtifactMissing:
        return None
    except ArtifactError as error:
        moved = set_aside(workspace, order.stage, artifact_id)
        on_event(SetAside(stage=order.stage, artifact_id=artifact_id, reason=error.problem, moved_to=str(moved)))
        return None
    judged = found.model_copy(update={"verdict": judge(order.limits, found.metrics)})
    on_event(StageReused(stage=order.stage, artifact_id=artifact_id, verdict=judged.verdict))
    return judged


def _newest_id(order: Order[N], identity: str, workspace: Workspace) -> str | None:
    youngest = _youngest(order)
    same = [a for a in artifacts(workspace, order.stage) if a.identity == identity and a.created_at >= youngest]
    return same[-1].artifact_id if same else None


def _youngest(order: Order[N]) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=order.max_age_s or 0)


def _prepare(staged: Path, order: Order[N]) -> str | None:
    """Return the occasion; an unfinished occasion goes on, so that a killed benchmark keeps its measurements."""
    if staged.exists() and not order.keeps_progress:
        shutil.rmtree(staged)
    staged.mkdir(parents=True, exist_ok=True)
    if order.max_age_s is None:
        return None
    opened = staged / "occasion"
    if not opened.exists():
        opened.write_text(datetime.now(UTC).isoformat(timespec="microseconds"), encoding="utf-8")
    return opened.read_text(encoding="utf-8")


def _artifact_id(identity: str, occasion: str | None) -> str:
    if occasion is None:
        return identity[:12]
    return hashlib.sha256(f"{identity}{occasion}".encode()).hexdigest()[:12]


def _build(order: Order[N], identity: str, occasion: str | None, facts: Facts, content: Path) -> N:
    files = describe_files(content, facts.without_meaning)
    draft = order.noun.model_validate(
        {
            "artifact_id": _artifact_id(identity, occasion),
            "identity": identity,
            "occasion": occasion,
            "parents": order.parents,
            "inputs": order.inputs,
            "created_at": datetime.now(UTC),
            "config": order.config.model_dump(mode="json"),
            "tools": dict(order.tools),
            "files": files,
            "content_digest": digest_of([[ref.path, ref.sha256] for ref in files if ref.carries_meaning]),
            "metrics": dict(facts.metrics),
            "verdict": judge(order.limits, facts.metrics),
            "seal": "0" * 64,
            **facts.own,
        }
    )
    return draft.model_copy(update={"seal": seal_of(draft.model_dump(mode="json"))})
