"""Promotion: one pointer a profile, moved under a journal, verified through the pointer, put back when that fails."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import AwareDatetime, ValidationError

from core.contract import Artifact, ArtifactId, Contract, Stage
from core.errors import ArtifactMissing, GateRefused, ManifestBroken
from core.events import Note, OnEvent, Promoted, RolledBack
from core.files import confine, sync_folder, write_atomic
from core.nouns import GgufModel, Quantisation
from core.workspace import Workspace, load

C = TypeVar("C", bound=Contract)


class Pointer(Contract):
    """Which GgufModel is current for a profile; `previous` is the one it replaced."""

    profile: str
    artifact_id: ArtifactId
    promoted_at: AwareDatetime
    previous: ArtifactId | None = None


class Journal(Contract):
    """A promotion under way: the pointer as it was before, and whether the new one was verified."""

    profile: str
    artifact_id: ArtifactId
    before: Pointer | None
    began_at: AwareDatetime
    verified: bool = False


def current(workspace: Workspace, profile: str) -> Pointer | None:
    """Return a profile's pointer, None when nothing was promoted yet."""
    return _read(workspace.pointer(profile), Pointer)


def points_to(workspace: Workspace, profile: str, gguf: GgufModel) -> bool:
    """Say whether a profile's pointer is on this model already, put there and verified by an earlier run."""
    pointer = current(workspace, profile)
    return pointer is not None and pointer.artifact_id == gguf.artifact_id


def promote(workspace: Workspace, profile: str, gguf: GgufModel, on_event: OnEvent) -> Pointer:
    """Put a profile's pointer on a model, journal first; GateRefused when its verdict failed.

    The journal stays until `conclude`, so that a kill at any moment can be undone. A pointer that is there already
    is left as it is.
    """
    refuse_failed(gguf)
    before = current(workspace, profile)
    if before is not None and before.artifact_id == gguf.artifact_id:
        return before
    now = datetime.now(UTC)
    _write_journal(workspace, Journal(profile=profile, artifact_id=gguf.artifact_id, before=before, began_at=now))
    previous = before.artifact_id if before else None
    pointer = Pointer(profile=profile, artifact_id=gguf.artifact_id, promoted_at=now, previous=previous)
    write_atomic(workspace.pointer(profile), pointer.model_dump_json(indent=1).encode())
    on_event(Promoted(profile=profile, artifact_id=gguf.artifact_id, previous=previous))
    return pointer


def refuse_failed(*artifacts: Artifact) -> None:
    """Raise GateRefused when an artifact's verdict failed; it names every limit that was not met."""
    failed = [artifact for artifact in artifacts if not artifact.verdict.passed]
    if not failed:
        return
    reasons = [
        f"{artifact.stage.value} {artifact.artifact_id}: "
        + ("; ".join(unmet(artifact)) or "its verdict is failed, no limit is named")
        for artifact in failed
    ]
    raise GateRefused(
        " | ".join(reasons),
        remedy="Nothing was promoted, all figures are kept; change the training, or the limits in the profile, and run again.",
    )


def unmet(artifact: Artifact) -> list[str]:
    """Return each limit an artifact did not meet: metric, measured, limit."""
    return [
        f"{failure.limit.metric} is {'unknown' if failure.measured is None else f'{failure.measured:.4g}'}, "
        f"the limit is {failure.limit.op} {failure.limit.value:.4g}"
        for failure in artifact.verdict.failures
    ]


def verify_pointer(workspace: Workspace, profile: str, on_event: OnEvent) -> str:
    """Check the promoted model through its pointer: every file by hash, then the first kept GGUF loads and answers.

    Return what it answered and record the verification in the journal. ArtifactMissing without a pointer, FileTampered,
    ManifestBroken or GateRefused when the model is not what was promoted.
    """
    pointer = current(workspace, profile)
    if pointer is None:
        raise ArtifactMissing(
            f"profile {profile} has no current model in {workspace.root}", remedy=f"Run `edgekiln run --profile {profile}`."
        )
    gguf = load(workspace, Stage.EXPORT, pointer.artifact_id, GgufModel)
    answer = _answer(workspace, gguf, on_event)
    journal = _read(workspace.journal, Journal)
    if journal is not None and journal.profile == profile:
        _write_journal(workspace, journal.model_copy(update={"verified": True}))
    return answer


def promoted_file(gguf: GgufModel) -> Quantisation:
    """Return the file a promotion is verified with: the first kept one of those required; GateRefused without any."""
    required = gguf.config.get("required", ())
    kept = sorted(gguf.quantisations, key=lambda made: made.type not in required)
    if not kept:
        raise GateRefused(
            f"export {gguf.artifact_id} keeps 0 quantisations, >= 1 is needed",
            remedy="Read why each was rejected with `edgekiln show`, then change export.quantisations.",
        )
    return kept[0]


def _answer(workspace: Workspace, gguf: GgufModel, on_event: OnEvent) -> str:
    from core.export.gguf_answer.answer import answer

    path = confine(workspace.folder(Stage.EXPORT, gguf.artifact_id), promoted_file(gguf).path)
    scratch = workspace.root / "staging" / f"verify-{gguf.artifact_id}"
    answered = answer(path, scratch, on_event)
    shutil.rmtree(scratch)
    return answered


def conclude(workspace: Workspace) -> None:
    """End a promotion that was verified: drop the journal."""
    _drop_journal(workspace)


def rollback(workspace: Workspace, profile: str, reason: str, on_event: OnEvent) -> None:
    """Put a profile's pointer back to where it was before the promotion under way; nothing to do without a journal."""
    journal = _read(workspace.journal, Journal)
    if journal is None or journal.profile != profile:
        return
    now = current(workspace, profile)
    moved = now is not None and now.artifact_id == journal.artifact_id
    if moved:
        _restore(workspace.pointer(profile), journal.before)
    _drop_journal(workspace)
    if moved:
        restored = journal.before.artifact_id if journal.before else None
        on_event(RolledBack(profile=profile, artifact_id=journal.artifact_id, restored=restored, reason=reason))


def replay_journal(workspace: Workspace, on_event: OnEvent) -> None:
    """Settle what a killed run left: a verified promotion stands, any other is undone. Needs the workspace's lock."""
    journal = _read(workspace.journal, Journal)
    if journal is None:
        return
    if journal.verified:
        _drop_journal(workspace)
        text = f"the promotion of {journal.artifact_id} for {journal.profile} had been verified before the kill; it stands"
        on_event(Note(stage=None, text=text))
        return
    rollback(workspace, journal.profile, "the run was killed before the model was verified", on_event)


def _restore(pointer: Path, before: Pointer | None) -> None:
    if before is not None:
        write_atomic(pointer, before.model_dump_json(indent=1).encode())
        return
    pointer.unlink(missing_ok=True)
    sync_folder(pointer.parent)


def _write_journal(workspace: Workspace, journal: Journal) -> None:
    write_atomic(workspace.journal, journal.model_dump_json(indent=1).encode())


def _drop_journal(workspace: Workspace) -> None:
    workspace.journal.unlink(missing_ok=True)
    sync_folder(workspace.journal.parent)


def _read(path: Path, kind: type[C]) -> C | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValidationError, IsADirectoryError) as error:
        why = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise ManifestBroken(f"{path}: {why}", remedy=f"Remove {path.name}; the next run promotes anew.") from error
