"""From an artifact to what it was made from."""

from __future__ import annotations

from typing import TypeVar

from core.contract import Artifact, ParentRef
from core.errors import ArtifactError, ArtifactMissing
from core.nouns import NOUNS
from core.workspace import Workspace, read_manifest

N = TypeVar("N", bound=Artifact)


def parent(workspace: Workspace, artifact: Artifact, noun: type[N]) -> N:
    """Return the parent of the given kind; ArtifactMissing when the artifact has none."""
    for ref in artifact.parents:
        if NOUNS[ref.stage] is noun:
            return read_manifest(workspace, ref.stage, ref.artifact_id, noun)
    raise ArtifactMissing(
        f"{artifact.stage.value} {artifact.artifact_id} has no {noun.__name__} among its parents",
        remedy="Run the flow again from the missing stage.",
    )


def ancestors(workspace: Workspace, artifact: Artifact) -> list[Artifact]:
    """Return everything an artifact was made from, nearest first, each once."""
    found: dict[str, Artifact] = {}
    waiting = list(artifact.parents)
    while waiting:
        ref = waiting.pop(0)
        if ref.artifact_id not in found:
            found[ref.artifact_id] = read_manifest(workspace, ref.stage, ref.artifact_id, NOUNS[ref.stage])
            waiting.extend(found[ref.artifact_id].parents)
    return list(found.values())


def known_ancestors(workspace: Workspace, artifact: Artifact) -> list[tuple[ParentRef, Artifact | None]]:
    """Return what an artifact was made from, nearest first, each once; None for what is not here, or is broken."""
    found: dict[str, tuple[ParentRef, Artifact | None]] = {}
    waiting = list(artifact.parents)
    while waiting:
        ref = waiting.pop(0)
        if ref.artifact_id in found:
            continue
        try:
            made = read_manifest(workspace, ref.stage, ref.artifact_id, NOUNS[ref.stage])
        except ArtifactError:
            found[ref.artifact_id] = (ref, None)
            continue
        found[ref.artifact_id] = (ref, made)
        waiting.extend(made.parents)
    return list(found.values())
