"""A snapshot of an environment: every file of its packages as a hard link, so that going back needs no network.

It lies inside the environment (`.edgekiln-snapshots/`), whole before anything is changed. What is changed is decided in
repair.py.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from core.contract import Contract
from core.env.installed import Installer, Survey, freeze, survey
from core.errors import RepairFailed
from core.files import confine, disk_full_is_an_error, read_json_lines, sync_folder, write_atomic, write_json_lines

FOLDER = ".edgekiln-snapshots"
_KEPT = 3  # snapshots; an old one costs the disk what has been replaced since
_MANIFEST = "snapshot.json"
_FILES = "files"
_LISTING = "files.jsonl"
_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES}


class Snapshot(Contract):
    """An environment before it was changed; `freeze` is what `freeze_argv` printed, byte for byte."""

    schema_version: Literal[1] = 1
    snapshot_id: str
    created_at: AwareDatetime
    python: str
    prefix: str
    sites: tuple[str, ...]
    freeze: str
    tool: Literal["pip", "uv"]
    freeze_command: tuple[str, ...]
    freeze_place: tuple[str, ...]


class _Kept(Contract):
    path: str
    kind: Literal["file", "empty"]
    bytes: int
    mtime_ns: int


def take(found: Survey, installer: Installer, scratch: Path) -> Snapshot:
    """Keep every file of an environment's packages; the manifest is written last and the whole renamed into place."""
    now = datetime.now(UTC)
    snapshot = Snapshot(
        snapshot_id=f"{now:%Y%m%dT%H%M%S%f}",
        created_at=now,
        python=found.python,
        prefix=found.prefix,
        sites=found.sites,
        freeze=freeze(installer, scratch),
        tool=installer.tool,
        freeze_command=installer.command,
        freeze_place=installer.place,
    )
    root = Path(found.prefix)
    home = root / FOLDER
    staged = home / f".{snapshot.snapshot_id}"
    for left in home.glob(".[0-9]*"):
        shutil.rmtree(left)  # a snapshot that was being taken when it was killed: nothing had been changed yet
    with disk_full_is_an_error(home):
        kept = [_keep(root, path, staged / _FILES) for path in _paths(root, found.sites, found.outside)]
    write_json_lines(staged / _LISTING, (entry.model_dump() for entry in kept))
    write_atomic(staged / _MANIFEST, snapshot.model_dump_json(indent=1).encode())
    staged.rename(home / snapshot.snapshot_id)
    sync_folder(home)
    return snapshot


def _paths(root: Path, sites: Iterable[str], outside: Iterable[str]) -> Iterator[str]:
    """Yield files, links and empty folders of the packages, relative to the environment; nothing outside of it."""
    for site in sites:
        if not Path(site).is_relative_to(root):
            continue
        for folder, below, names in os.walk(site):
            linked = [name for name in below if Path(folder, name).is_symlink()]
            for name in (*names, *linked):
                yield os.path.relpath(f"{folder}{os.sep}{name}", root)
            if not below and not names and folder != site:
                yield os.path.relpath(folder, root)
    yield from (os.path.relpath(path, root) for path in outside if os.path.lexists(path) and not Path(path).is_dir())


def _keep(root: Path, relative: str, into: Path) -> _Kept:
    source, target = root / relative, into / relative
    status = source.lstat()
    if source.is_dir() and not source.is_symlink():
        return _Kept(path=relative, kind="empty", bytes=0, mtime_ns=status.st_mtime_ns)
    target.parent.mkdir(parents=True, exist_ok=True)
    link(source, target)
    return _Kept(path=relative, kind="file", bytes=status.st_size, mtime_ns=status.st_mtime_ns)


def link(source: Path, target: Path) -> None:
    """Make a hard link of a file or of a link itself; a copy where the file system has none."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def snapshots(prefix: Path) -> list[Snapshot]:
    """Return an environment's snapshots, newest first; one that cannot be read is passed over."""
    found = []
    for path in sorted((prefix / FOLDER).glob(f"[0-9]*/{_MANIFEST}"), reverse=True):
        try:
            found.append(Snapshot.model_validate_json(path.read_bytes()))
        except ValidationError:
            continue
    return found


def pick(prefix: Path, snapshot_id: str | None) -> Snapshot:
    """Return the named snapshot, else the newest; RepairFailed when there is none."""
    found = snapshots(prefix)
    for snapshot in found:
        if snapshot_id in {None, snapshot.snapshot_id}:
            return snapshot
    known = ", ".join(snapshot.snapshot_id for snapshot in found) or "none"
    raise RepairFailed(
        f"no snapshot {snapshot_id or ''} in {prefix / FOLDER}, there: {known}".replace("  ", " "),
        remedy="A snapshot is taken by `edgekiln env fix --apply`; without one there is nothing to go back to.",
    )


def folder_of(snapshot: Snapshot) -> Path:
    """Return the folder a snapshot lies in."""
    return confine(Path(snapshot.prefix) / FOLDER, snapshot.snapshot_id)


def prune(prefix: Path) -> None:
    """Remove all but the newest few snapshots."""
    for snapshot in snapshots(prefix)[_KEPT:]:
        shutil.rmtree(folder_of(snapshot))


def restore(snapshot: Snapshot, scratch: Path) -> None:
    """Put an environment back as it was; RepairFailed when the snapshot was altered or the set differs afterwards.

    It may be killed and started again: a file that is right already is left alone.
    """
    root, kept = Path(snapshot.prefix), folder_of(snapshot) / _FILES
    listing = [_Kept.model_validate(entry) for entry in read_json_lines(folder_of(snapshot) / _LISTING)]
    _refuse_altered(snapshot, kept, [entry for entry in listing if entry.kind == "file"])
    wanted = {entry.path for entry in listing}
    now = set(_paths(root, snapshot.sites, _outside_now(snapshot, scratch)))
    for relative in now - wanted:
        _remove(root, relative, snapshot.sites)
    with disk_full_is_an_error(root):
        for entry in listing:
            _put_back(root, kept, entry)
    _prove(snapshot, scratch)


def _outside_now(snapshot: Snapshot, scratch: Path) -> tuple[str, ...]:
    return survey(Path(snapshot.python), scratch).outside


def _refuse_altered(snapshot: Snapshot, kept: Path, files: Iterable[_Kept]) -> None:
    altered = [entry.path for entry in files if not _unaltered(kept / entry.path, entry)]
    if altered:
        raise RepairFailed(
            f"snapshot {snapshot.snapshot_id}: {len(altered)} kept files are not as they were kept, first {altered[0]}",
            remedy="Nothing was changed. Make the environment anew with `make setup`.",
        )


def _unaltered(path: Path, entry: _Kept) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.bytes, entry.mtime_ns)


def _remove(root: Path, relative: str, sites: Iterable[str]) -> None:
    path = confine(root, relative) if not (root / relative).is_symlink() else root / relative
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    stop = {Path(site) for site in sites}
    parent = path.parent
    while parent not in stop and any(parent.is_relative_to(site) for site in stop) and not any(parent.iterdir()):
        parent.rmdir()
        parent = parent.parent


def _put_back(root: Path, kept: Path, entry: _Kept) -> None:
    target = root / entry.path
    if entry.kind == "empty":
        target.mkdir(parents=True, exist_ok=True)
        return
    source = kept / entry.path
    status = source.lstat()
    if os.path.lexists(target) and (target.lstat().st_dev, target.lstat().st_ino) == (status.st_dev, status.st_ino):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.edgekiln")
    beside.unlink(missing_ok=True)
    link(source, beside)
    beside.replace(target)


def _prove(snapshot: Snapshot, scratch: Path) -> None:
    installer = Installer(snapshot.tool, snapshot.freeze_command, snapshot.freeze_place)
    now = freeze(installer, scratch)
    if now == snapshot.freeze:
        return
    before, after = set(snapshot.freeze.splitlines()), set(now.splitlines())
    differs = ", ".join([f"-{line}" for line in sorted(before - after)] + [f"+{line}" for line in sorted(after - before)])
    raise RepairFailed(
        f"after the rollback to {snapshot.snapshot_id} the package set still differs: {differs}",
        remedy="The snapshot is kept; make the environment anew with `make setup` if running it again does not help.",
    )
