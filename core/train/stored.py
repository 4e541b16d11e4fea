"""Where a training's checkpoints lie in the store, which of them are whole, and which may go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from core.files import sha256_of
from core.remote.store import Store
from core.train import retention
from core.workspace import MANIFEST

_CHECKPOINTS, _BESIDE = "checkpoints", "beside"
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class Stored:
    """A checkpoint in the store; `finished_at` is when its manifest was written, by the store's clock, None for half a one."""

    name: str
    objects: list[str] = field(default_factory=list)
    finished_at: datetime | None = None

    @property
    def folder(self) -> str:
        """What its folder is called on a machine: the name without what tells apart two of one step."""
        return self.name.rpartition("-")[0]


def checkpoint(training: str, name: str) -> str:
    """Return where a checkpoint lies."""
    return f"{_CHECKPOINTS}/{training}/{name}"


def name_of(checkpoint: Path) -> str:
    """Return the name of a checkpoint in the store: a training that went back makes another one of the same step."""
    return f"{checkpoint.name}-{digest_of(checkpoint)}"


def digest_of(folder: Path) -> str:
    """Return what tells apart two folders of one name: the beginning of their manifest's hash."""
    return sha256_of(folder / MANIFEST)[:12]


def beside(training: str, name: str, digest: str = "") -> str:
    """Return where what was written beside a checkpoint lies: one of them, or all."""
    return "/".join(part for part in (_BESIDE, training, name, digest) if part)


def newest_first(store: Store, training: str) -> list[Stored]:
    """Return a training's checkpoints, half ones last."""
    below, found = f"{_CHECKPOINTS}/{training}", dict[str, Stored]()
    for each in store.listed(below):
        name, _, path = each.name.removeprefix(f"{below}/").partition("/")
        one = found.setdefault(name, Stored(name))
        one.objects.append(each.name)
        if path == MANIFEST:
            one.finished_at = each.modified
    return sorted(found.values(), key=lambda one: (one.finished_at or _NEVER, one.name), reverse=True)


def thin(store: Store, training: str, here: list[str], best: str | None, promised: Collection[str]) -> set[str]:
    """Take away what nobody needs and return the names of what is left.

    That is half checkpoints that nobody sends, those of later steps than any `here`, from where the training went back, and
    whole ones but for the newest and the best.
    """
    found = newest_first(store, training)
    whole = [one for one in found if one.finished_at is not None and one.folder <= max(here, default="")]
    kept = {*(one.name for one in whole[: retention.KEEP]), *promised, *(one.name for one in whole if one.folder == best)}
    for one in found:
        if one.name not in kept:
            _take_away(store, one.objects)
            _take_away(store, [each.name for each in store.listed(beside(training, one.name))])
    return kept


def _take_away(store: Store, names: list[str]) -> None:
    """Delete a folder's objects, the manifest first: what is left of it at any moment is no whole one."""
    for name in sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
        store.delete(name)
