"""What SQLite says went wrong with the ledger, as errors a person can act on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from core.errors import ArtifactError, DiskFull, EdgekilnError, WorkspaceUnwritable

_PRIMARY = 0xFF  # an extended result code holds the plain one in its low byte


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Raise what goes wrong with a ledger as DiskFull, WorkspaceUnwritable or ArtifactError."""
    try:
        yield
    except OSError as error:
        raise (_full(path) if error.errno in (ENOSPC, EDQUOT) else _forbidden(path, str(error))) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY
        raise _meaning(path, code, str(error)) from error


def _meaning(path: Path, code: int, told: str) -> EdgekilnError:
    if path.is_dir():
        return ArtifactError(f"{path} is a folder, no ledger", remedy="Move that folder away and run again.")
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return _forbidden(path, told)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ArtifactError(
            f"the ledger {path} is held by another program: {told}",
            remedy="Close the program that has it open, then run the same command again: no answer is lost.",
        )
    if code == sqlite3.SQLITE_IOERR:
        return ArtifactError(
            f"the disk that holds {path} failed: {told}",
            remedy="Look at that disk, then run the same command again: what was committed is kept.",
        )
    return ArtifactError(
        f"the ledger {path} cannot be used: {told}",
        remedy="Move that file away and run again; its prompts are then asked once more.",
    )


def _full(path: Path) -> DiskFull:
    return DiskFull(
        f"no space left on the device that holds {path}",
        remedy="Free some space, then run the same command again: every answer that was written down is kept.",
    )


def _forbidden(path: Path, told: str) -> WorkspaceUnwritable:
    return WorkspaceUnwritable(
        f"the ledger {path} may not be written: {told}",
        remedy="Give yourself the right to write that file and its folder, or name another workspace: --workspace PATH.",
    )
