"""Sends a finished folder to the store: only what is not there yet, each file with its SHA-256, the manifest last."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from core.contract import FileRef, Stage
from core.errors import ArtifactMissing, FileTampered, RemoteCorrupt, RemoteDiffers, RemoteFailed
from core.events import Note, OnEvent, ignore
from core.files import confine, sha256_of
from core.remote.failures import ConditionFailed
from core.remote.listing import files_of
from core.remote.store import SHA256, Store, pause
from core.remote.telling import Telling
from core.workspace import MANIFEST, MAX_MANIFEST_BYTES

_MIB = 1 << 20
_LOOK_S = 0.2
_PUT_TOGETHER = "before-parameter-build.s3.CompleteMultipartUpload"
_REMEDY = "The folder is not sent. Make it anew: run the same command again."


class Stopped(Exception):
    """The sending was told to stop; what is sent stays, and the next push goes on from there."""


@dataclass(frozen=True)
class Pushed:
    """What one push did."""

    name: str
    files_sent: int
    files_there: int
    bytes_sent: int
    seconds: float


def push(
    store: Store,
    folder: Path,
    name: str,
    *,
    stage: Stage | None = None,
    on_event: OnEvent = ignore,
    stop: threading.Event | None = None,
) -> Pushed:
    """Send a folder that has its manifest to `name` below the store's prefix, and return when all of it is there.

    A name is written once: RemoteDiffers when another folder has it. FileTampered when a file is not what the manifest says,
    which then never becomes an object. ArtifactMissing without a manifest. Stopped soon after `stop` is set.
    """
    began = time.perf_counter()
    manifest = _manifest(folder)
    files = files_of(manifest, str(folder))
    if _is_there(store, f"{name}/{MANIFEST}", manifest):
        return Pushed(name, 0, len(files) + 1, 0, time.perf_counter() - began)
    missing = frozenset(ref.path for ref in _missing(store, name, files))
    total = sum(ref.bytes for ref in files)
    with _Sending(store, Telling(f"uploading {name}", total, stage, on_event), stop or threading.Event()) as sending:
        for ref in files:
            path = _present(folder, ref)
            if ref.path in missing:
                sending.send(path, f"{name}/{ref.path}", ref)
            else:
                _check(path, ref)
                sending.there(ref)
        sending.finish()
    _put_manifest(store, f"{name}/{MANIFEST}", manifest)
    _take_away_rests(store, name, stage, on_event)
    return Pushed(name, sending.sent + 1, sending.found, sending.bytes + len(manifest), time.perf_counter() - began)


def planned(store: Store, folder: Path, name: str) -> tuple[FileRef, ...]:
    """Return the files that a push would send now; RemoteDiffers when another folder has the name, ArtifactMissing as `push`."""
    manifest = _manifest(folder)
    if _is_there(store, f"{name}/{MANIFEST}", manifest):
        return ()
    return _missing(store, name, files_of(manifest, str(folder)))


def _missing(store: Store, name: str, files: tuple[FileRef, ...]) -> tuple[FileRef, ...]:
    sizes = {each.name: each.bytes for each in store.listed(name)}

    def lies_there(ref: FileRef) -> bool:
        target = f"{name}/{ref.path}"
        stat = store.stat(target) if sizes.get(target) == ref.bytes else None
        return stat is not None and stat.sha256 == ref.sha256

    return tuple(ref for ref in files if not lies_there(ref))


def _manifest(folder: Path) -> bytes:
    try:
        with (folder / MANIFEST).open("rb") as stream:
            return stream.read(MAX_MANIFEST_BYTES + 1)
    except FileNotFoundError as error:
        raise ArtifactMissing(f"{folder / MANIFEST} is missing: the folder was never finished", remedy=_REMEDY) from error


def _is_there(store: Store, name: str, manifest: bytes) -> bool:
    try:
        there, _ = store.get(name, MAX_MANIFEST_BYTES)
    except ArtifactMissing:
        return False
    if there != manifest:
        raise RemoteDiffers(
            f"{name} in {store.where} is the manifest of another folder",
            remedy="Push under a name of its own: names are written once. Or take the other folder away there.",
        )
    return True


def _put_manifest(store: Store, name: str, manifest: bytes) -> None:
    if not store.traits().conditional:
        store.put(name, manifest)
        return
    try:
        store.put(name, manifest, new=True)
    except ConditionFailed:  # another machine was faster, or an earlier try of ours came through
        _is_there(store, name, manifest)


def _take_away_rests(store: Store, name: str, stage: Stage | None, on_event: OnEvent) -> None:
    """The folder is whole now, so what is half sent below it is left from a kill, and would be paid for."""
    try:
        store.abort_unfinished(name)
    except RemoteFailed as error:
        text = f"parts of broken uploads below {name} may be left: {error.problem}"
        on_event(Note(stage=stage, text=text))


def _present(folder: Path, ref: FileRef) -> Path:
    path = confine(folder, ref.path)
    if not path.is_file():
        raise FileTampered(f"{path} is missing", remedy=_REMEDY)
    if (size := path.stat().st_size) != ref.bytes:
        raise FileTampered(f"{path} has {size} bytes, its manifest says {ref.bytes}", remedy=_REMEDY)
    return path


def _check(path: Path, ref: FileRef) -> None:
    if (digest := sha256_of(path)) != ref.sha256:
        raise FileTampered(f"{path} has sha256 {digest[:12]}, its manifest says {ref.sha256[:12]}", remedy=_REMEDY)


@dataclass
class _Upload:
    path: Path
    target: str
    ref: FileRef
    tries: int = 1
    counted: int = 0
    judged: threading.Event = field(default_factory=threading.Event)
    sound: bool = False


class _Sending:
    """Uploads under way: at most `remote.threads` requests and `remote.max_mbs` for all of them together.

    A file that goes in parts is hashed while they are sent: they are no object before they are put together, and that waits
    for the hash.
    """

    def __init__(self, store: Store, telling: Telling, stop: threading.Event) -> None:
        self._store, self._telling, self._stop = store, telling, stop
        self._manager = _transfer_manager(store)
        self._ended: SimpleQueue[_Upload] = SimpleQueue()
        self._futures: dict[str, Any] = {}
        self._in_parts: dict[str, _Upload] = {}
        self.sent = self.found = self.bytes = 0

    def __enter__(self) -> _Sending:
        self._store.client.meta.events.register(_PUT_TOGETHER, self._wait_for_the_hash)
        return self

    def __exit__(self, *failure: object) -> None:
        for upload in self._in_parts.values():
            upload.judged.set()
        self._manager.__exit__(*failure)  # its shutdown(cancel=True) raises a TypeError (s3transfer 0.19.3)
        self._store.client.meta.events.unregister(_PUT_TOGETHER, self._wait_for_the_hash)

    def there(self, ref: FileRef) -> None:
        self.found += 1
        self._telling.add(ref.bytes)

    def send(self, path: Path, target: str, ref: FileRef) -> None:
        self._settle(wait=False)
        upload = _Upload(path, target, ref)
        if not self._goes_in_parts(ref):
            _check(path, ref)
            self._submit(upload)
            return
        self._in_parts[self._store.key(target)] = upload
        self._submit(upload)
        _check(path, ref)
        upload.sound = True
        upload.judged.set()

    def finish(self) -> None:
        while self._futures:
            self._settle(wait=True)
        self._telling.tell(last=True)

    def _goes_in_parts(self, ref: FileRef) -> bool:
        return ref.bytes > self._store.config.part_mib * _MIB

    def _wait_for_the_hash(self, params: dict[str, Any], **_: object) -> None:
        upload = self._in_parts.get(params["Key"])
        if upload is None:
            return
        upload.judged.wait()
        if not upload.sound:
            raise Stopped

    def _submit(self, upload: _Upload) -> None:
        metadata = {SHA256: upload.ref.sha256}
        sums = self._store.checksum(upload.ref.sha256)
        if self._goes_in_parts(upload.ref):
            # each part has a sum of its own; without TLS boto3 signs its bytes, which is the same sum once more
            sums = {"ChecksumAlgorithm": "SHA256"} if sums and self._store.encrypted else {}
        with self._store.recognised():
            self._futures[upload.target] = self._manager.upload(
                str(upload.path),
                self._store.bucket,
                self._store.key(upload.target),
                extra_args={"Metadata": metadata, **sums},
                subscribers=[_subscriber(upload, self._telling, self._ended)],
            )

    def _settle(self, *, wait: bool) -> None:
        """Take in the uploads that ended, waiting a moment for one where asked."""
        self._telling.tell()
        if self._stop.is_set():
            raise Stopped
        try:
            upload = self._ended.get(timeout=_LOOK_S) if wait else self._ended.get_nowait()
        except Empty:
            return
        future = self._futures.pop(upload.target)
        try:
            with self._store.recognised():
                future.result()
        except RemoteCorrupt:
            if upload.tries >= self._store.config.attempts:
                raise
            pause(upload.tries)
            self._telling.add(-upload.counted)
            upload.tries, upload.counted = upload.tries + 1, 0
            self._submit(upload)
            return
        self.sent += 1
        self.bytes += upload.ref.bytes


def _transfer_manager(store: Store) -> Any:
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    part_bytes, limit = store.config.part_mib * _MIB, store.config.max_mbs
    told = TransferConfig(
        multipart_threshold=part_bytes + 1,
        multipart_chunksize=part_bytes,
        max_concurrency=store.config.threads,
        max_bandwidth=round(limit * 1e6) if limit else None,
        preferred_transfer_client="classic",  # the other one knows no bandwidth limit and no pool of ours
    )
    return create_transfer_manager(store.client, told)


def _subscriber(upload: _Upload, telling: Telling, ended: SimpleQueue[_Upload]) -> Any:
    from s3transfer.subscribers import BaseSubscriber

    class Hears(BaseSubscriber):  # type: ignore[misc]
        def on_progress(self, bytes_transferred: int, **_: object) -> None:
            upload.counted += bytes_transferred  # may miss some of several parts at once: it is progress only
            telling.add(bytes_transferred)

        def on_done(self, **_: object) -> None:
            ended.put(upload)

    return Hears()
