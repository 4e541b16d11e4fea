"""Fetches a folder from the store: into a scratch folder, every file held against the manifest, then renamed into place."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.contract import FileRef, Stage
from core.errors import ArtifactError, ArtifactMissing, FileTampered, ManifestBroken, UsageError
from core.events import Note, OnEvent, ignore
from core.files import confine, disk_full, disk_full_is_an_error, sha256_of, sync_folder, write_atomic
from core.remote.listing import files_of
from core.remote.store import Store
from core.remote.telling import EVERY_S, Telling
from core.workspace import MANIFEST, MAX_MANIFEST_BYTES

_MIB = 1 << 20
_SPARE_BYTES = 64 * _MIB  # left free on the disk
_REMEDY = "Take the folder before it, or push it again from where it is whole."


@dataclass(frozen=True)
class Stored:
    """A folder in the store whose manifest is there; `modified` is when that was written, by the store's clock."""

    name: str
    modified: datetime


def folders(store: Store, below: str) -> list[Stored]:
    """Return the whole folders right below a name, newest first; what has no manifest yet is not among them."""
    found = [
        Stored(each.name.removesuffix(f"/{MANIFEST}"), each.modified)
        for each in store.listed(below)
        if each.name.removeprefix(f"{below}/").count("/") == 1 and each.name.endswith(f"/{MANIFEST}")
    ]
    return sorted(found, key=lambda each: (each.modified, each.name), reverse=True)


def pull_newest(
    store: Store,
    below: str,
    into: Path,
    *,
    max_bytes: int,
    stage: Stage | None = None,
    on_event: OnEvent = ignore,
) -> Path:
    """Fetch the newest folder below a name that is whole to `into/<its name>`, and return that; ArtifactMissing for none.

    A broken one is told and the one before it is taken. Trouble with the store or this disk is no sign of a broken one, and
    is raised.
    """
    broken = 0
    for each in folders(store, below):
        try:
            return pull(
                store, each.name, into / each.name.rpartition("/")[2], max_bytes=max_bytes, stage=stage, on_event=on_event
            )
        except ArtifactError as error:
            broken += 1
            on_event(
                Note(stage=stage, text=f"{each.name} in {store.where} is passed over: {error.problem}", level="warning")
            )
    raise ArtifactMissing(
        f"no whole folder below {below} in {store.where}, {broken} broken",
        remedy="Start anew, or push one from a machine that has it.",
    )


def pull(
    store: Store, name: str, folder: Path, *, max_bytes: int, stage: Stage | None = None, on_event: OnEvent = ignore
) -> Path:
    """Fetch a folder; it appears only whole and verified. What a killed pull had fetched is not fetched again.

    A folder that is here already, whole and the same, is returned as it is; UsageError for any other one. An ArtifactError
    says what is broken in the store; `max_bytes` bounds all files together; DiskFull before the first byte where they cannot
    fit. One pull at a time into a folder: the caller holds the workspace.
    """
    manifest, stat = store.get(f"{name}/{MANIFEST}", MAX_MANIFEST_BYTES)
    if stat.sha256 not in {None, hashlib.sha256(manifest).hexdigest()}:
        raise ManifestBroken(f"{name}/{MANIFEST} in {store.where} is not what was sent", remedy=_REMEDY)
    files = files_of(manifest, f"{name} in {store.where}")
    if folder.exists():
        if not _is_whole(folder, manifest, files):
            raise UsageError(f"{folder} exists and is not {name}", remedy="Pull to another place, or move it away.")
        return folder
    scratch = folder.with_name(f".{folder.name}.pull")
    _clear(scratch, {ref.path for ref in files})
    _refuse_too_much(files, scratch, max_bytes, name)
    telling = Telling(f"fetching {name}", sum(ref.bytes for ref in files), stage, on_event)
    try:
        _Fetching(store, name, scratch, telling).all(files)
    except ArtifactError:  # broken in the store: what came of it is of no use
        shutil.rmtree(scratch)
        raise
    write_atomic(scratch / MANIFEST, manifest)
    with disk_full_is_an_error(folder.parent):
        scratch.rename(folder)
    sync_folder(folder.parent)
    return folder


def _is_whole(folder: Path, manifest: bytes, files: tuple[FileRef, ...]) -> bool:
    held = folder / MANIFEST
    if not held.is_file() or held.stat().st_size != len(manifest) or held.read_bytes() != manifest:
        return False
    return all(_is(confine(folder, ref.path), ref) for ref in files)


def _is(path: Path, ref: FileRef) -> bool:
    return path.is_file() and path.stat().st_size == ref.bytes and sha256_of(path) == ref.sha256


def _clear(scratch: Path, wanted: set[str]) -> None:
    """Keep of an earlier scratch folder only files that are wanted; links are never followed."""
    with disk_full_is_an_error(scratch.parent):
        scratch.mkdir(parents=True, exist_ok=True)
    for path in sorted(scratch.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and path.relative_to(scratch).as_posix() not in wanted):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _refuse_too_much(files: tuple[FileRef, ...], scratch: Path, max_bytes: int, name: str) -> None:
    total = sum(ref.bytes for ref in files)
    if total > max_bytes:
        raise ManifestBroken(f"{name} has {total} bytes > {max_bytes}, the most that is fetched", remedy=_REMEDY)
    there = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    if total - there + _SPARE_BYTES > shutil.disk_usage(scratch).free:
        raise disk_full(scratch)


class _Fetching:
    """The files of one folder on their way into its scratch folder, `remote.threads` at a time."""

    def __init__(self, store: Store, name: str, scratch: Path, telling: Telling) -> None:
        self._store, self._name, self._scratch, self._telling = store, name, scratch, telling
        self._stop = threading.Event()

    def all(self, files: tuple[FileRef, ...]) -> None:
        with ThreadPoolExecutor(self._store.config.threads, thread_name_prefix="pull") as pool:
            waiting = {pool.submit(self._one, ref) for ref in files}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=EVERY_S, return_when=FIRST_COMPLETED)
                    for each in done:
                        each.result()
                    self._telling.tell()
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        self._telling.tell(last=True)

    def _one(self, ref: FileRef) -> None:
        path, digest = confine(self._scratch, ref.path), hashlib.sha256()
        if _is(path, ref):
            self._telling.add(ref.bytes)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk_full_is_an_error(self._scratch), path.open("wb") as stream:

            def take(data: bytes) -> None:
                if self._stop.is_set():
                    raise ArtifactError("another file of the folder failed", remedy=_REMEDY)
                stream.write(data)
                digest.update(data)
                self._telling.add(len(data))

            self._store.read(f"{self._name}/{ref.path}", take, ref.bytes)
            stream.flush()
            os.fsync(stream.fileno())
        if path.stat().st_size != ref.bytes or digest.hexdigest() != ref.sha256:
            path.unlink()
            raise FileTampered(
                f"{self._name}/{ref.path} in {self._store.where} has sha256 {digest.hexdigest()[:12]}, "
                f"its manifest says {ref.sha256[:12]}",
                remedy=_REMEDY,
            )
