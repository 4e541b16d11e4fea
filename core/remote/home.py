"""A workspace's second home while a job runs: locked for this machine, sent what is finished, asked for what is missing here."""

from __future__ import annotations

import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from types import TracebackType

from core.contract import Artifact, Stage
from core.errors import ArtifactError, Evicted, Interrupted, RemoteFailed, Terminated
from core.events import Event, Note, OnEvent, Progress
from core.remote.holding import Holding
from core.remote.kept import give_kept, take_kept
from core.remote.pull import folders, pull
from core.remote.settings import RemoteConfig
from core.remote.store import Store
from core.remote.uploader import Uploader
from core.workspace import MANIFEST, Workspace, artifacts

LOCK = "lock"
MAX_PULLED_BYTES = 1 << 40  # the free space on the disk is looked at besides
_ARTIFACTS = "artifacts"
_VERSION = re.compile(r"([0-9a-f]{12})-[0-9a-f]{12}")
_CAPACITY = 100_000  # a folder that waits costs its path
_LOOK_S = 1.0
_IN_A_HURRY = (Interrupted, Terminated, Evicted)


class Home:
    """The second home of the workspace a job works in; use as a context, with the lock held.

    An artifact lies at `artifacts/STAGE/IDENTITY/ID-SEAL`: one that is made anew under its id is another folder there, for a
    name is written once. While the store is out of reach the work goes on, and what is to be sent waits.
    """

    def __init__(self, store: Store, holding: Holding, workspace: Workspace, on_event: OnEvent) -> None:
        self.store = store
        self._holding, self._workspace = holding, workspace
        self._on_event = on_event
        self._waiting = False
        self._moved_at = time.monotonic()
        self._uploader = Uploader(store, capacity=_CAPACITY, on_event=self._hear)

    def __enter__(self) -> Home:
        """Take over what changed on another machine, and promise to send what an earlier job left unsent; RemoteFailed."""
        take_kept(self.store, self._workspace, self._on_event)
        there = {each.name for each in self.store.listed(_ARTIFACTS)}
        for stage in Stage:
            for artifact in artifacts(self._workspace, stage):
                if f"{name_of(artifact)}/{MANIFEST}" not in there:
                    self.send(artifact)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Wait until all is sent, as long as the store takes it; whoever stops the job or takes the machine does not wait."""
        with self._uploader:
            if error is None or (isinstance(error, Exception) and not isinstance(error, _IN_A_HURRY)):
                self._give_kept()
                self._wait()

    def check(self) -> None:
        """Raise RemoteLockLost when another machine took the workspace: nothing more may be paid for here."""
        self._holding.check()

    def send(self, artifact: Artifact) -> None:
        """Promise to send a finished artifact; RemoteLockLost when another machine took the workspace."""
        self.check()
        self._uploader.submit(self._workspace.folder(artifact.stage, artifact.artifact_id), name_of(artifact))

    def fetch(self, stage: Stage, identity: str, youngest: datetime | None = None) -> bool:
        """Fetch the newest whole artifact of an identity, not older than `youngest`; say whether it lies here now.

        What is broken in the store is passed over and told; so is a store out of reach: the stage is then done here.
        """
        self.check()
        try:
            for each in folders(self.store, _below(stage, identity)):
                if youngest is not None and each.modified < youngest:
                    return False
                found = _VERSION.fullmatch(each.name.rpartition("/")[2])
                if found and self._pull(stage, found[1], each.name):
                    return True
        except RemoteFailed as error:
            self._on_event(
                Note(stage=stage, text=f"nothing is fetched for {stage.value}: {error.problem}", level="warning")
            )
        return False

    def _pull(self, stage: Stage, artifact_id: str, name: str) -> bool:
        target = self._workspace.folder(stage, artifact_id)
        if target.exists():
            return False
        scratch = self._workspace.root / "staging" / f"pulled-{stage.value}-{artifact_id}"
        shutil.rmtree(scratch, ignore_errors=True)  # whole, of a job killed before it was put in its place
        try:
            pull(self.store, name, scratch, max_bytes=MAX_PULLED_BYTES, stage=stage, on_event=self._on_event)
        except ArtifactError as error:
            text = f"{name} in {self.store.where} is passed over: {error.problem}"
            self._on_event(Note(stage=stage, text=text, level="warning"))
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.rename(target)
        self._on_event(Note(stage=stage, text=f"{stage.value} {artifact_id} was fetched from {self.store.where}"))
        return True

    def _give_kept(self) -> None:
        try:
            self.check()
            give_kept(self.store, self._workspace)
        except RemoteFailed as error:
            text = f"decisions and pointers of this machine are not in the store: {error.problem}"
            self._on_event(Note(stage=None, text=text, level="warning"))

    def _wait(self) -> None:
        self._waiting, self._moved_at = True, time.monotonic()
        while self._uploader.flush(_LOOK_S):
            if time.monotonic() - self._moved_at > self.store.config.patience_s:
                return

    def _hear(self, event: Event) -> None:
        """Hand on what the uploader tells, its progress only while somebody waits for it."""
        if isinstance(event, Progress):
            self._moved_at = time.monotonic()
            if not self._waiting:
                return
        self._on_event(event)


def _below(stage: Stage, identity: str) -> str:
    return f"{_ARTIFACTS}/{stage.value}/{identity[:12]}"


def name_of(artifact: Artifact) -> str:
    """Return where an artifact lies in the store."""
    return f"{_below(artifact.stage, artifact.identity)}/{artifact.artifact_id}-{artifact.seal[:12]}"


@contextmanager
def at_home(remote: RemoteConfig, workspace: Workspace, command: str, on_event: OnEvent) -> Iterator[Workspace]:
    """Yield the workspace with the second home that the profile names, as it is where none is named.

    Told at the start, before anything is worked or paid for: RemoteLocked when another machine works in it, RemoteFailed when
    the store cannot be used, ToolMissing without boto3 or the key's variables.
    """
    if remote.url is None:
        yield workspace
        return
    owner = f"{platform.node()} process {os.getpid()} ({command})"
    with (
        Store(remote) as store,
        Holding(store, LOCK, owner, on_event) as holding,
        Home(store, holding, workspace, on_event) as home,
    ):
        yield replace(workspace, home=home)
