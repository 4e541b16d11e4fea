"""Finds out what a store does by doing it: does it check SHA-256, does it keep to the conditions of a conditional write."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import uuid

from core.errors import RemoteCorrupt, RemoteFailed, RemoteRefused, RemoteUnconditional
from core.remote.failures import ConditionFailed
from core.remote.store import Store, Traits

_FOLDER = ".probe"
_NO_ETAG = f'"{"0" * 32}"'


def look(store: Store) -> Traits:
    """Write below `.probe/`, wrongly on purpose too, and tell what the store let pass; any trouble is the store's own error."""
    name = f"{_FOLDER}/{uuid.uuid4().hex}"
    store.put_plain(name, b"0")  # reached, allowed: what fails from here on is a trait
    try:
        checks = _checks_sha256(store, f"{name}-sum")
        conditional = _keeps_conditions(store, f"{name}-new")
    finally:
        for written in (name, f"{name}-sum", f"{name}-new"):
            with contextlib.suppress(RemoteRefused):  # a key that may not delete leaves a few bytes
                store.delete(written)
    return Traits(checks_sha256=checks, conditional=conditional)


def _checks_sha256(store: Store, name: str) -> bool:
    wrong, right = (base64.b64encode(hashlib.sha256(data).digest()).decode() for data in (b"another", b"1"))
    try:
        store.put_plain(name, b"1", ChecksumSHA256=wrong)
    except RemoteCorrupt:
        return _takes(store, name, b"1", ChecksumSHA256=right)
    except RemoteFailed as error:
        if error.retryable and type(error) is not RemoteFailed:
            raise
    return False


def _keeps_conditions(store: Store, name: str) -> bool:
    if not _takes(store, name, b"2", IfNoneMatch="*"):
        return False
    etag = store.put_plain(name, b"3")
    refused = [_refuses(store, name, b"4", IfNoneMatch="*"), _refuses(store, name, b"5", IfMatch=_NO_ETAG)]
    return all(refused) and _takes(store, name, b"6", IfMatch=etag)


def _takes(store: Store, name: str, data: bytes, **condition: str) -> bool:
    try:
        store.put_plain(name, data, **condition)
    except RemoteUnconditional:
        return False
    except ConditionFailed:  # the answer to a first try may have been lost; the second then meets what that one wrote
        stat = store.stat(name)
        return stat is not None and stat.sha256 == hashlib.sha256(data).hexdigest()
    return True


def _refuses(store: Store, name: str, data: bytes, **condition: str) -> bool:
    try:
        store.put_plain(name, data, **condition)
    except ConditionFailed:
        return True
    except RemoteUnconditional:
        return False
    return False
