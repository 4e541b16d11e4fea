"""Names in the object store for paths of the artifact tree: confined, reversible, the same for every endpoint."""

from __future__ import annotations

import os
from urllib.parse import quote_from_bytes, unquote_to_bytes

from core.errors import ArtifactError, PathEscapes

MAX_KEY_BYTES = 1024  # S3's own limit
# the "safe characters" of S3's naming guide without * ' ( ), which some endpoints sign differently; all else becomes %XX
_SAFE = "/!-_."


def key_of(prefix: str, path: str) -> str:
    """Return the key of a relative path below a prefix; PathEscapes when the path is not one, ArtifactError when too long."""
    _refuse_strange(path)
    name = quote_from_bytes(os.fsencode(path), safe=_SAFE)
    key = f"{prefix}/{name}" if prefix else name
    if len(key) > MAX_KEY_BYTES:
        raise ArtifactError(
            f"path {path[:80]!r} makes a key of {len(key)} bytes > {MAX_KEY_BYTES}",
            remedy="Give the file a shorter name, or shorten the prefix in remote.url.",
        )
    return key


def path_of(prefix: str, key: str) -> str:
    """Return the relative path that `key_of` made a key of; PathEscapes when it made none such."""
    name = key.removeprefix(f"{prefix}/") if prefix else key
    path = os.fsdecode(unquote_to_bytes(name))
    if prefix and not key.startswith(f"{prefix}/"):
        raise _escapes(key)
    _refuse_strange(path)
    if quote_from_bytes(os.fsencode(path), safe=_SAFE) != name:
        raise _escapes(key)
    return path


def _refuse_strange(path: str) -> None:
    parts = path.split("/")
    if "\x00" in path or "\\" in path or any(part in {"", ".", ".."} for part in parts):
        raise _escapes(path)
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise _escapes(path) from error


def _escapes(name: str) -> PathEscapes:
    return PathEscapes(
        f"{name[:200]!r} is no path below a folder",
        remedy="Use relative names joined by '/', without '.', '..', a backslash or empty parts.",
    )
