"""The few small files of a workspace that change: people's decisions about rows and the profiles' pointers, in the store too.

Everything else there is written once. The newer of two stands, by the store's clock and this machine's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from core.errors import ArtifactError
from core.events import Note, OnEvent
from core.files import confine, sha256_of, write_atomic
from core.remote.store import Listed, Store
from core.workspace import Workspace

_BELOW = "kept"
_NAME = re.compile(r"decisions/data\.jsonl|current/(?!journal\.json$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.json")
_MAX_BYTES = 64 << 20


def take_kept(store: Store, workspace: Workspace, on_event: OnEvent) -> None:
    """Take over what another machine has changed since; what it replaces here is set aside. RemoteFailed."""
    for each in store.listed(_BELOW):
        name = each.name.removeprefix(f"{_BELOW}/")
        if _NAME.fullmatch(name) is None:
            continue
        try:
            _take(store, each, confine(workspace.root, name), workspace.root / "quarantine", on_event)
        except ArtifactError as error:
            text = f"{name} in {store.where} is passed over: {error.problem}"
            on_event(Note(stage=None, text=text, level="warning"))


def _take(store: Store, each: Listed, path: Path, quarantine: Path, on_event: OnEvent) -> None:
    if path.exists() and datetime.fromtimestamp(path.stat().st_mtime, UTC) >= each.modified:
        return
    data, stat = store.get(each.name, _MAX_BYTES)
    if stat.sha256 != hashlib.sha256(data).hexdigest():
        raise ArtifactError("its bytes are not what was sent", remedy="Send it again from where it is whole.")
    if path.exists():
        if sha256_of(path) == stat.sha256:
            return
        aside = quarantine / f"{path.parent.name}-{path.name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        quarantine.mkdir(parents=True, exist_ok=True)
        shutil.move(path, aside)
        on_event(Note(stage=None, text=f"{path.parent.name}/{path.name} is taken from {store.where}; the older is {aside}"))
    write_atomic(path, data)
    os.utime(path, (each.modified.timestamp(), each.modified.timestamp()))


def give_kept(store: Store, workspace: Workspace) -> None:
    """Send what has changed here; the lock is held, so nobody else has changed it. RemoteFailed."""
    for path in (*(workspace.root / "decisions").glob("*.jsonl"), *(workspace.root / "current").glob("*.json")):
        name = path.relative_to(workspace.root).as_posix()
        if _NAME.fullmatch(name) is None or path.stat().st_size > _MAX_BYTES:
            continue
        data = path.read_bytes()
        there = store.stat(f"{_BELOW}/{name}")
        if there is None or there.sha256 != hashlib.sha256(data).hexdigest():
            store.put(f"{_BELOW}/{name}", data)
