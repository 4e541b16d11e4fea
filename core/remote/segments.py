"""Immutable objects beside the artifacts, such as pieces of a ledger: each name is written once, listed, and fetched whole."""

from __future__ import annotations

import hashlib

from core.errors import FileTampered, RemoteDiffers
from core.remote.failures import ConditionFailed
from core.remote.store import Listed, Store


def put_segment(store: Store, name: str, data: bytes) -> bool:
    """Write a segment and return True, False when the same bytes lie there already.

    RemoteDiffers for other bytes under that name; RemoteUnconditional where the store would write over them.
    """
    try:
        store.put(name, data, new=True)
    except ConditionFailed:
        stat = store.stat(name)
        if stat is None:  # the store was just writing it for somebody else, who failed
            return put_segment(store, name, data)
        if stat.bytes != len(data) or stat.sha256 != hashlib.sha256(data).hexdigest():
            raise RemoteDiffers(
                f"{name} in {store.where} is another segment of {stat.bytes} bytes",
                remedy="Give each segment a name of its own.",
            ) from None
        return False
    return True


def segments(store: Store, below: str) -> tuple[Listed, ...]:
    """Return the segments below a folder, sorted by name."""
    return tuple(sorted(store.listed(below), key=lambda each: each.name))


def fetch_segment(store: Store, name: str, max_bytes: int) -> bytes:
    """Return a segment; FileTampered when it is not what was put, ArtifactMissing for none, ArtifactError when it is larger."""
    data, stat = store.get(name, max_bytes)
    if stat.sha256 != (digest := hashlib.sha256(data).hexdigest()):
        told = "no hash of ours" if stat.sha256 is None else f"sha256 {stat.sha256[:12]} when it was sent"
        raise FileTampered(
            f"{name} in {store.where} has sha256 {digest[:12]}, {told}", remedy="Push it again from where it is whole."
        )
    return data
