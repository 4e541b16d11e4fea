"""The study on disk: Optuna's journal under a lock that the kernel gives back, and which processes still live.

A journal and not SQLite: a trial's lines are appended and can be read as they are, SQL stays in its rooms, and nothing needs
a migration. Optuna's own locks are files that outlive a killed process and are broken by force after 30 s; flock is given
back by the kernel at once, and whoever takes it next cuts off the line a killed writer left half done, which Optuna's reader
would refuse for ever.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from core.errors import FileTampered
from core.search.section import SearchConfig

if TYPE_CHECKING:
    from optuna.storages import JournalStorage
    from optuna.study import Study

NAME = "search"
_CHUNK_BYTES = 1 << 16


class JournalLock:
    """The lock of a journal as Optuna's file backend asks for one: `acquire` and `release`."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path = journal.with_name(f"{journal.name}.lock")
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Wait for the lock and cut off a half-written last line."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        _cut_torn_line(self._journal)
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._handle is not None:
            os.close(self._handle)
        self._handle = None


def _cut_torn_line(journal: Path) -> None:
    with journal.open("rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        keep = end
        while keep:
            start = max(0, keep - _CHUNK_BYTES)
            stream.seek(start)
            chunk = stream.read(keep - start)
            keep = start + chunk.rfind(b"\n") + 1
            if keep > start:
                break
        if keep < end:
            stream.truncate(keep)


def _refuse_damage(journal: Path) -> None:
    """Raise FileTampered for a line that holds no record: Optuna would fail at it, now or at the next record."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            is_record = isinstance(json.loads(line), dict)
        except ValueError:
            is_record = not line.endswith(b"\n")  # a killed writer's, which is cut off
        if not is_record:
            raise FileTampered(
                f"{journal}:{number} of {len(lines)} holds no record of a search",
                remedy="Cut the file before that line, the trials told of until there count; or start anew: --force search.",
            )


def open_storage(folder: Path) -> JournalStorage:
    """Open the journal of a search, made where it is missing; FileTampered names a damaged line."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / "journal.jsonl"
    _refuse_damage(journal)
    lock: Any = JournalLock(journal)  # Optuna asks for no more than the two methods
    return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))


def open_study(storage: JournalStorage, config: SearchConfig) -> Study:
    """Return the study of a search, made where it is missing; it draws nothing before `sampler_for` gave it a sampler."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = (
        optuna.pruners.MedianPruner(n_startup_trials=config.startup_trials) if config.prunes else optuna.pruners.NopPruner()
    )
    return optuna.create_study(
        storage=storage,
        study_name=NAME,
        directions=["minimize"] * len(config.goals),
        pruner=pruner,
        load_if_exists=True,
    )


def sampler_for(number: int, config: SearchConfig) -> Any:
    """Return the sampler that draws a trial: seeded by its number, so that a restart repeats no draw and no process another's."""
    from optuna.samplers import TPESampler

    return TPESampler(n_startup_trials=config.startup_trials, multivariate=True, seed=config.seed + number)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the study for a decision that must not be made twice."""
    with (folder / "study.lock").open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class Presence:
    """A process among those of a search: it holds the lock of its own file for as long as it lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "processes"
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"

    def __enter__(self) -> Presence:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._stream = (self._folder / self.name).open("ab")
        fcntl.flock(self._stream, fcntl.LOCK_EX)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()
        if kind is None:  # else a trial may be left under way, which lasted until the file was touched last
            (self._folder / self.name).unlink()

    def show(self) -> None:
        """Leave the time behind: a trial whose process died lasted until then."""
        os.utime(self._folder / self.name)

    def lives(self, name: str) -> bool:
        """Say whether a process of this search is alive."""
        try:
            with (self._folder / name).open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as soon as the file is closed
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def living(self) -> tuple[str, ...]:
        """Return the names of the processes of this search that are alive."""
        return tuple(path.name for path in sorted(self._folder.glob("*")) if self.lives(path.name))

    def last_seen(self, name: str) -> float | None:
        """Return when a process showed itself last, in seconds since 1970, None for one that left nothing behind."""
        path = self._folder / name
        return path.stat().st_mtime if path.is_file() else None
