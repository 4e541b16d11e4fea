"""What SQLite says went wrong with the ledger, as errors a person can act on."""

from __future__ import annotations

import shlex
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EDQUOT, ENOSPC
from pathlib import Path

from core.errors import ArtifactError, DiskFull, EdgekilnError, WorkspaceUnwritable

_TOLD_CHARS = 160
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


@contextmanager
def row_errors(path: Path, table: str, column: str, value: str | int) -> Iterator[None]:
    """Raise what goes wrong while a row is read as an ArtifactError that names it, as one bad row is no lost ledger."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError, zlib.error) as error:
        named = repr(value) if isinstance(value, str) else value
        deletion = f"DELETE FROM {table} WHERE {column} = {named}"  # noqa: S608 - told, not run
        raise ArtifactError(
            f"the ledger {path} is damaged: {table.removesuffix('s')} {str(value)[:12]} cannot be read:"
            f" {' '.join(str(error).split())[:_TOLD_CHARS]}",
            remedy="Put back a copy of that file, or take out that row alone, and the same command goes on without it:"
            f' sqlite3 {shlex.quote(str(path))} "{deletion}"',
        ) from error


def must_be_file(path: Path) -> None:
    """Refuse what no ledger can be in: SQLite would wait for the other end of a pipe, and blame the disk."""
    if path.is_symlink() and not path.exists():
        raise ArtifactError(
            f"{path} is a link to {path.readlink()}, which is not there",
            remedy="Put the ledger back or mount its disk; without the link a new one is begun and its prompts are asked once more.",
        )
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ArtifactError(f"{path} is no regular file, so no ledger", remedy="Move it away and run again.")


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
        remedy="Put back a copy of that file if there is one. Else move it away, keep it, and run again: its prompts are"
        " then asked once more.",
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
