"""Publishes an export: what of it leaves the workspace, where to, and what is recorded of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from core import __version__
from core.benchdb.writer import write_kept
from core.config import Profile
from core.contract import Contract, FileRef, Stage
from core.errors import ArtifactError, ArtifactMissing, EnvironmentFault, GateRefused, ManifestBroken, UsageError
from core.events import Note, OnEvent, Published, ignore
from core.export.card import FILE as CARD
from core.export.card import README
from core.files import canonical_json, confine, digest_of, disk_full_is_an_error, sha256_of, write_atomic
from core.hub.upload.upload import Outgoing, UploadRequest, upload
from core.nouns import GgufModel
from core.package_index import hold
from core.promote import unmet
from core.publish.record import Publication, PublishedFile, record
from core.remote.push import planned, push
from core.remote.store import Store
from core.report.model_card import ADAPTER_MODELFILE, modelfile_name
from core.workspace import MANIFEST, Workspace, describe_files, verify

CHECKSUMS = "SHA256SUMS"
_HUB = "hf://"


class Delivery(Contract):
    """What one publishing did, or would do: the publication with the paths that were sent and that were there already."""

    publication: Publication
    sent: tuple[str, ...]
    there: tuple[str, ...]
    dry_run: bool

    def bytes_sent(self) -> int:
        """Return the size of what was sent."""
        return sum(file.bytes for file in self.publication.files if file.path in self.sent)


class _Outcome(Contract):
    revision: str | None
    manifest_sha256: str | None = None
    sent: tuple[str, ...]
    there: tuple[str, ...]
    removed: tuple[str, ...] = ()


def publish(
    workspace: Workspace, gguf: GgufModel, profile: Profile, on_event: OnEvent = ignore, *, dry_run: bool = False
) -> Delivery:
    """Send an export's accepted files, card, Modelfiles and checksums to `publish.to`; what is there already is not sent again.

    With `dry_run` nothing is written anywhere. GateRefused for an export whose verdict failed, FileTampered for a file that
    is not as its manifest says, ArtifactMissing for an export without a card, HubFailed, RemoteFailed.
    """
    if (to := profile.publish.to) is None:
        raise UsageError("publish.to is not set", remedy="Name it: --to hf://owner/name or --to s3://bucket/prefix")
    files = leaving(gguf)
    verify(workspace, gguf.model_copy(update={"files": files}))
    with _staged(workspace, gguf, files, to) as staged:
        send = _to_hub if to.startswith(_HUB) else _to_bucket
        outcome = send(profile, gguf, staged, on_event, dry_run)
        made = [PublishedFile(path=ref.path, sha256=ref.sha256, bytes=ref.bytes) for ref in _refs(staged)]
    publication = Publication(
        at=datetime.now(UTC),
        artifact_id=gguf.artifact_id,
        seal=gguf.seal,
        edgekiln=__version__,
        to=to,
        revision=outcome.revision,
        manifest_sha256=outcome.manifest_sha256,
        files=tuple(made),
        removed=outcome.removed,
    )
    delivery = Delivery(publication=publication, sent=outcome.sent, there=outcome.there, dry_run=dry_run)
    if not dry_run:
        record(workspace, publication)
        _store(workspace, profile.ingest.lock_timeout_s, on_event)
        _tell(delivery, on_event)
    return delivery


def leaving(gguf: GgufModel) -> tuple[FileRef, ...]:
    """Return the files of an export that may leave: its accepted quantisations and adapter, and the texts about them."""
    if not gguf.verdict.passed:
        raise GateRefused(
            f"export {gguf.artifact_id}: {'; '.join(unmet(gguf)) or 'its verdict is failed'}",
            remedy="Nothing was sent. Publish one that passed: `edgekiln models` lists them.",
        )
    wanted = [*(file.path for file in gguf.quantisations), README, CARD]
    texts = {modelfile_name(file) for file in gguf.quantisations}
    if (alone := gguf.adapter_file) is not None and not alone.reasons:
        wanted.append(alone.path)
        texts.add(ADAPTER_MODELFILE)
    there = {ref.path: ref for ref in gguf.files}
    if README not in there or CARD not in there:
        raise ArtifactMissing(
            f"export {gguf.artifact_id} has no model card", remedy="Export again: edgekiln export --force export"
        )
    if lost := [path for path in wanted if path not in there]:
        raise ManifestBroken(
            f"export {gguf.artifact_id} lists {lost[0]} and has no such file", remedy="Export again: edgekiln export"
        )
    return tuple(ref for path, ref in there.items() if path in {*wanted, *texts})


@contextmanager
def _staged(workspace: Workspace, gguf: GgufModel, files: tuple[FileRef, ...], to: str) -> Iterator[Path]:
    """Yield a folder with exactly what is published, as links to the artifact's files; another publisher to `to` waits."""
    scratch = workspace.root / "staging" / f"publish-{gguf.artifact_id}-{digest_of(to)[:12]}"
    source = workspace.folder(Stage.EXPORT, gguf.artifact_id)
    with hold(scratch), disk_full_is_an_error(scratch.parent):
        shutil.rmtree(scratch, ignore_errors=True)
        staged = scratch / "files"
        for ref in files:
            target = confine(staged, ref.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(confine(source, ref.path), target)
        lines = sorted((ref.path, ref.sha256) for ref in files)
        write_atomic(staged / CHECKSUMS, "".join(f"{sha256}  {path}\n" for path, sha256 in lines).encode())
        try:
            yield staged
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _refs(staged: Path) -> tuple[FileRef, ...]:
    return describe_files(staged, frozenset())


def _to_hub(profile: Profile, gguf: GgufModel, staged: Path, on_event: OnEvent, dry_run: bool) -> _Outcome:
    repo, _, branch = str(profile.publish.to).removeprefix(_HUB).partition("@")
    request = UploadRequest(
        repo=repo,
        branch=branch or "main",
        message=f"{gguf.student.name}, edgekiln export {gguf.artifact_id}",
        files=tuple(
            Outgoing(path=ref.path, source=str(staged / ref.path), sha256=ref.sha256, bytes=ref.bytes)
            for ref in _refs(staged)
        ),
        checksums=CHECKSUMS,
        mark=CARD,
        token_env=profile.publish.token_env,
        timeout_s=profile.publish.timeout_s,
        dry_run=dry_run,
    )
    done = upload(request, staged.parent / "worker", on_event)
    return _Outcome(revision=done.commit, sent=done.sent, there=done.there, removed=done.removed)


def _to_bucket(profile: Profile, gguf: GgufModel, staged: Path, on_event: OnEvent, dry_run: bool) -> _Outcome:
    """Objects come one by one, so their manifest comes last: who sees it sees all. A prefix is written once."""
    place, _, name = str(profile.publish.to).rpartition("/")
    refs = _refs(staged)
    told = {"artifact_id": gguf.artifact_id, "seal": gguf.seal, "files": [ref.model_dump() for ref in refs]}
    write_atomic(staged / MANIFEST, canonical_json(told))
    with Store(profile.remote.model_copy(update={"url": place})) as store:
        sent = tuple(ref.path for ref in planned(store, staged, name))
        if not dry_run:
            push(store, staged, name, on_event=on_event)
    there = tuple(ref.path for ref in refs if ref.path not in sent)
    return _Outcome(revision=None, manifest_sha256=sha256_of(staged / MANIFEST), sent=sent, there=there)


def _store(workspace: Workspace, lock_timeout_s: float, on_event: OnEvent) -> None:
    """Put what was published where into the database; what is published stays so, and the record is kept already."""
    try:
        write_kept(workspace, lock_timeout_s)
    except (ArtifactError, EnvironmentFault) as error:
        told = f"{error.problem}; the next benchmark or `edgekiln db rebuild` puts the publication into the database"
        on_event(Note(stage=Stage.EXPORT, text=told, level="warning"))


def _tell(delivery: Delivery, on_event: OnEvent) -> None:
    told = delivery.publication
    on_event(
        Published(
            artifact_id=told.artifact_id,
            to=told.to,
            revision=told.revision,
            sent=len(delivery.sent),
            already_there=len(delivery.there),
            bytes_sent=delivery.bytes_sent(),
        )
    )
