"""The artifact tree: staging, publishing (manifest last), loading with verification, quarantine, the lock."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from core.contract import Artifact, FileRef, Stage
from core.errors import (
    ArtifactError,
    ArtifactMissing,
    FileTampered,
    ManifestBroken,
    WorkspaceLocked,
    WorkspaceUnwritable,
)
from core.files import confine, digest_of, disk_full_is_an_error, sha256_of, sync_folder, write_atomic
from core.nouns import NOUNS

if TYPE_CHECKING:
    from core.remote.home import Home

N = TypeVar("N", bound=Artifact)

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Workspace:
    """A handle on the tree; `force` names stages whose finished artifacts are not reused.

    `home` is its second home in an object store, None where it has none.
    """

    root: Path
    force: frozenset[Stage] = frozenset()
    home: Home | None = None

    @property
    def database(self) -> Path:
        """The writer's DuckDB file."""
        return self.root / "edgekiln.duckdb"

    @property
    def journal(self) -> Path:
        """The promotion journal, present only while a promotion is under way."""
        return self.root / "current" / "journal.json"

    @property
    def decisions(self) -> Path:
        """The decisions people made about rows."""
        return self.root / "decisions" / "data.jsonl"

    @property
    def privacy_audit(self) -> Path:
        """The lines about what each run did about personal data; only ever added to."""
        return self.root / "audit" / "privacy.jsonl"

    @property
    def publications(self) -> Path:
        """The lines about what was published where; only ever added to."""
        return self.root / "audit" / "publications.jsonl"

    def ledger(self, name: str) -> Path:
        """Return the path of a SQLite ledger."""
        return self.root / "ledger" / f"{name}.sqlite"

    def pointer(self, profile: str) -> Path:
        """Return the path of a profile's pointer; PathEscapes for a name that is no file name."""
        return confine(self.root / "current", f"{profile}.json")

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run."""
        return confine(self.root / "runs", run_id)

    def folder(self, stage: Stage, artifact_id: str) -> Path:
        """Return the folder an artifact has or would have."""
        return confine(self.root, f"artifacts/{stage.value}/{artifact_id}")

    def staging(self, stage: Stage, identity: str) -> Path:
        """Return the scratch folder of an artifact under work; the same for the same identity."""
        return self.root / "staging" / f"{stage.value}-{identity[:12]}"


def open_workspace(root: Path, force: frozenset[Stage] = frozenset()) -> Workspace:
    """Create the tree where it is missing; WorkspaceUnwritable when that cannot be done."""
    try:
        for name in ("artifacts", "staging", "quarantine", "current", "runs", "ledger"):
            (root / name).mkdir(parents=True, exist_ok=True)
        probe = root / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise WorkspaceUnwritable(
            f"workspace {root} cannot be written: {error.strerror}",
            remedy="Choose a folder you may write with --workspace or EDGEKILN_WORKSPACE.",
        ) from error
    return Workspace(root.resolve(), force)


@contextmanager
def locked(workspace: Workspace, command: str) -> Iterator[None]:
    """Hold the workspace for one run; WorkspaceLocked when another process holds it. A kill releases it."""
    path = workspace.root / "lock"
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            holder = stream.read(500).strip() or "another process"
            raise WorkspaceLocked(
                f"workspace {workspace.root} is held by {holder}",
                remedy="Wait until it ends, or name another folder with --workspace.",
            ) from error
        stream.truncate(0)
        stream.write(f"process {os.getpid()} ({command}) since {datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z")
        stream.flush()
        yield


def describe_files(folder: Path, without_meaning: frozenset[str]) -> tuple[FileRef, ...]:
    """Hash every file below a folder, sorted by path; the manifest itself is left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return tuple(_describe_file(folder, path, without_meaning) for path in paths)


def _describe_file(folder: Path, path: Path, without_meaning: frozenset[str]) -> FileRef:
    relative = path.relative_to(folder).as_posix()
    return FileRef(
        path=relative,
        sha256=sha256_of(path),
        bytes=path.stat().st_size,
        carries_meaning=relative not in without_meaning,
    )


def seal_of(manifest: dict[str, Any]) -> str:
    """Return the hash over a manifest without its own seal."""
    return digest_of({key: value for key, value in manifest.items() if key != "seal"})


def publish(workspace: Workspace, staged: Path, artifact: Artifact) -> Path:
    """Write the manifest last and rename the staged folder into place; a kill leaves the old artifact or the new."""
    write_atomic(staged / MANIFEST, artifact.model_dump_json(indent=1).encode())
    target = workspace.folder(artifact.stage, artifact.artifact_id)
    target.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_is_an_error(target.parent):
        if target.exists():
            replaced = workspace.root / "staging" / f"replaced-{artifact.artifact_id}-{os.getpid()}"
            target.rename(replaced)
            staged.rename(target)
            shutil.rmtree(replaced)
        else:
            staged.rename(target)
    sync_folder(target.parent)
    return target


def read_manifest(workspace: Workspace, stage: Stage, artifact_id: str, noun: type[N]) -> N:
    """Read and check a manifest; ArtifactMissing, or ManifestBroken when it is not what was written."""
    path = workspace.folder(stage, artifact_id) / MANIFEST
    if not path.is_file():
        raise ArtifactMissing(
            f"no {stage.value} artifact {artifact_id} in {workspace.root}",
            remedy="List what is there with `edgekiln status`.",
        )
    artifact = _parse(path, noun)
    if artifact.artifact_id != artifact_id:
        raise _broken(path, f"artifact_id {artifact.artifact_id} is not the folder's name")
    return artifact


def _parse(path: Path, noun: type[N]) -> N:
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise _broken(path, f"it has > {MAX_MANIFEST_BYTES} bytes")
    data = path.read_bytes()
    try:
        artifact = noun.model_validate_json(data)
        seal = seal_of(json.loads(data))
    except ValidationError as error:
        first = error.errors()[0]
        raise _broken(path, f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}") from error
    except ValueError as error:  # NaN in a field of any kind, or text that is half a surrogate pair
        raise _broken(path, f"it holds a value that was never written: {error}") from error
    if seal != artifact.seal:
        raise _broken(path, f"its seal is {artifact.seal[:12]}, its content says {seal[:12]}: it was edited")
    return artifact


def _broken(path: Path, why: str) -> ManifestBroken:
    return ManifestBroken(f"{path}: {why}", remedy="Run again: the artifact is set aside and its stage redone.")


def verify(workspace: Workspace, artifact: Artifact) -> None:
    """Check every file of an artifact by size and hash; FileTampered names the first that differs."""
    folder = workspace.folder(artifact.stage, artifact.artifact_id)
    for ref in artifact.files:
        path = confine(folder, ref.path)
        if not path.is_file():
            raise _tampered(path, "is missing")
        if (size := path.stat().st_size) != ref.bytes:
            raise _tampered(path, f"has {size} bytes, its manifest says {ref.bytes}")
        if (digest := sha256_of(path)) != ref.sha256:
            raise _tampered(path, f"has sha256 {digest[:12]}, its manifest says {ref.sha256[:12]}")


def _tampered(path: Path, why: str) -> FileTampered:
    return FileTampered(f"{path} {why}", remedy="Run again: the artifact is set aside and its stage redone.")


def load(workspace: Workspace, stage: Stage, artifact_id: str, noun: type[N]) -> N:
    """Read a manifest and verify every file; an ArtifactError says what is wrong."""
    artifact = read_manifest(workspace, stage, artifact_id, noun)
    verify(workspace, artifact)
    return artifact


def set_aside(workspace: Workspace, stage: Stage, artifact_id: str) -> Path:
    """Move a broken artifact to quarantine and return where it lies now."""
    source = workspace.folder(stage, artifact_id)
    target = workspace.root / "quarantine" / f"{stage.value}-{artifact_id}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    source.rename(target)
    return target


def artifacts(workspace: Workspace, stage: Stage) -> list[Artifact]:
    """Return a stage's readable artifacts, oldest first; broken manifests are passed over (verify finds them)."""
    folder = workspace.root / "artifacts" / stage.value
    found: list[Artifact] = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        try:
            found.append(read_manifest(workspace, stage, path.name, NOUNS[stage]))
        except ArtifactError:
            continue
    return sorted(found, key=lambda artifact: artifact.created_at)


def existing_workspace(root: Path) -> Workspace:
    """Return a workspace that is there, creating and writing nothing; ArtifactMissing where there is none."""
    if not (root / "artifacts").is_dir():
        raise ArtifactMissing(
            f"no workspace at {root}", remedy="Make one with `edgekiln run`, or name its folder with --workspace."
        )
    return Workspace(root.resolve())


def broken(workspace: Workspace) -> dict[tuple[Stage, str], ManifestBroken]:
    """Return what is wrong with each artifact whose manifest cannot be trusted, by stage and id."""
    found: dict[tuple[Stage, str], ManifestBroken] = {}
    for stage in Stage:
        for path in sorted((workspace.root / "artifacts" / stage.value).glob("*")):
            try:
                read_manifest(workspace, stage, path.name, NOUNS[stage])
            except ManifestBroken as error:
                found[stage, path.name] = error
            except ArtifactError:
                continue
    return found


def refuse_broken(workspace: Workspace, prefix: str) -> None:
    """Raise ManifestBroken when an artifact whose id starts with `prefix` has a manifest that cannot be trusted."""
    for (_, artifact_id), error in broken(workspace).items():
        if artifact_id.startswith(prefix):
            raise error
