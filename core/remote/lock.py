"""A lock in the store by conditional writes: one holder, an expiry by the store's clock alone, renewal beside the work.

Why there are never two: taking and renewing are single writes that the store makes only if nobody wrote since. A holder counts
from before its write was sent, a rival from when the store says it was written, plus a slack; no two clocks are compared.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import Field, ValidationError

from core.contract import Contract
from core.errors import ArtifactMissing, RemoteDiffers, RemoteFailed, RemoteLocked, RemoteLockLost
from core.events import Note, OnEvent, ignore
from core.remote.failures import ConditionFailed
from core.remote.store import Store

_MAX_BYTES = 4096
_SLACK_S = 3.0  # the store tells times in whole seconds, and its nodes may be a little apart
_POLL_S = 0.5
_MAX_EXPIRY_S = 86_400.0


class Record(Contract):
    """What lies in the store; `beat` makes each write of a holder another one, and so its etag."""

    owner: str = Field(max_length=200)
    token: str = Field(pattern=r"^[0-9a-f]{32}$")
    beat: int = Field(ge=0)
    expiry_s: float = Field(gt=0, le=_MAX_EXPIRY_S)
    released: bool = False


class Lock:
    """A lock that was taken. Whoever holds it asks `check` before each step that must not be done twice."""

    def __init__(self, store: Store, name: str, record: Record, etag: str, until: float) -> None:
        self._store, self._name = store, name
        self._record, self._etag, self._until = record, etag, until
        self._beat = record.beat
        self._lost: str | None = None
        self._guard = threading.Lock()

    @property
    def held(self) -> bool:
        """Whether nobody else can have it at this moment."""
        return self._lost is None and _now() < self._until

    def check(self) -> None:
        """Raise RemoteLockLost when the lock expired or was taken; it stays lost."""
        if not self.held:
            raise self._lost_now()

    def renew(self) -> None:
        """Write the next beat; RemoteLockLost when somebody else wrote, RemoteFailed when the store cannot be asked."""
        with self._guard:
            self.check()
            following = self._following()
            sent_at = _now()
            try:
                self._etag = _write(self._store, self._name, following, etag=self._etag)
            except (ConditionFailed, ArtifactMissing):
                self._etag = self._still_ours()  # an earlier write came through, its answer did not: no time is gained
                return
            self._until = sent_at + following.expiry_s

    def _following(self, *, released: bool = False) -> Record:
        """No two writes are the same: else a rival's condition could hold for a later one than it read."""
        self._beat += 1
        return self._record.model_copy(update={"beat": self._beat, "released": released})

    def _still_ours(self) -> str:
        found = _read(self._store, self._name)
        if found is None or found[0].token != self._record.token or found[0].released:
            self._lost = f"{found[0].owner} has it" if found else "it was taken away"
            raise self._lost_now()
        return found[1]

    def _lost_now(self) -> RemoteLockLost:
        self._lost = self._lost or f"not renewed for {self._record.expiry_s:g} s, remote.lock_expiry_s"
        return RemoteLockLost(
            f"the lock {self._name} in {self._store.where} is lost: {self._lost}",
            remedy="Stop what needs it; run the same command again when the other machine is done.",
        )

    def release(self) -> None:
        """Give it up, so that another need not wait for the expiry; nothing when it is lost already."""
        with self._guard:
            if self._lost is None:
                given, self._lost = self._following(released=True), "it was released"
                try:
                    _write(self._store, self._name, given, etag=self._etag)
                except (ConditionFailed, ArtifactMissing, RemoteFailed):
                    return  # it expires by itself


def take(store: Store, name: str, owner: str, *, wait_s: float = 0.0) -> Lock:
    """Take a lock, waiting at most `wait_s`; RemoteLocked names who has it, RemoteUnconditional where the store keeps none."""
    mine = Record(owner=owner[:200], token=uuid.uuid4().hex, beat=0, expiry_s=store.config.lock_expiry_s)
    give_up = _now() + wait_s
    while True:
        sent_at = _now()
        found = _read(store, name)
        if found is None or found[0].released or found[2] >= found[0].expiry_s + _SLACK_S:
            if etag := _try(store, name, mine, found[1] if found else None):
                return Lock(store, name, mine, etag, sent_at + mine.expiry_s)
        elif _now() >= give_up:
            left = found[0].expiry_s + _SLACK_S - found[2]
            raise RemoteLocked(
                f"{name} in {store.where} is held by {found[0].owner!r}, for {left:.0f} s more if it is dead",
                remedy="Wait until it ends; a dead holder's lock is taken over when it expires.",
            )
        time.sleep(random.uniform(0.2, 1.0) * _POLL_S)  # noqa: S311 - spreads rivals, guards nothing


def _try(store: Store, name: str, mine: Record, etag: str | None) -> str | None:
    try:
        return _write(store, name, mine, etag=etag)
    except (ConditionFailed, ArtifactMissing):
        found = _read(store, name)  # the answer to a first try may have been lost, and this one met our own record
        return found[1] if found and found[0].token == mine.token else None


@contextmanager
def hold(store: Store, name: str, owner: str, *, wait_s: float = 0.0, on_event: OnEvent = ignore) -> Iterator[Lock]:
    """Hold a lock for a block, renewed beside it three times an expiry; told in a Note when it is lost. Errors as `take`."""
    lock, ended = take(store, name, owner, wait_s=wait_s), threading.Event()
    keeper = threading.Thread(target=_keep, args=(lock, ended, store.config.lock_expiry_s / 3, on_event), daemon=True)
    keeper.start()
    try:
        yield lock
    finally:
        ended.set()
        lock.release()


def _keep(lock: Lock, ended: threading.Event, every_s: float, on_event: OnEvent) -> None:
    told = False
    wait_s = every_s
    while not ended.wait(wait_s):
        try:
            lock.renew()
        except RemoteLockLost as error:
            if not ended.is_set():
                on_event(Note(stage=None, text=error.problem, level="warning"))
            return
        except RemoteFailed as error:
            if not told:
                on_event(Note(stage=None, text=f"the lock is not renewed: {error.problem}", level="warning"))
            told, wait_s = True, every_s / 4
        else:
            told, wait_s = False, every_s


def holder(store: Store, name: str) -> str | None:
    """Return who holds a lock, None when nobody does; RemoteFailed."""
    found = _read(store, name)
    if found is None or found[0].released or found[2] >= found[0].expiry_s + _SLACK_S:
        return None
    return found[0].owner


def _read(store: Store, name: str) -> tuple[Record, str, float] | None:
    """Return the record, its etag and its age in s by the store's clock; None for none."""
    try:
        data, stat = store.get(name, _MAX_BYTES)
        return Record.model_validate_json(data), stat.etag, stat.age_s
    except ArtifactMissing:
        return None
    except ValidationError as error:
        raise RemoteDiffers(
            f"{name} in {store.where} is no lock of edgekiln's",
            remedy="Take it away there, or name another prefix in remote.url.",
        ) from error


def _write(store: Store, name: str, record: Record, etag: str | None) -> str:
    data = record.model_dump_json().encode()
    return store.put(name, data, new=True) if etag is None else store.put(name, data, etag=etag)


def _now() -> float:
    """Return seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
