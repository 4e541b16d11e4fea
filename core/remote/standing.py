"""What lies in a workspace's second home, and what here is not there yet; nothing is written, no lock is needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from core.contract import Contract, Stage
from core.remote.home import LOCK, name_of
from core.remote.lock import holder
from core.remote.store import Listed, Store
from core.workspace import MANIFEST, Workspace, artifacts


class Standing(Contract):
    """`held_by` is who works in it now; `artifacts` are counted by stage, `unsent` are those that lie here alone.

    `checkpoints` holds the newest step of each training, `segments` counts those of the ledger.
    """

    where: str
    held_by: str | None
    artifacts: dict[Stage, int]
    unsent: tuple[str, ...]
    checkpoints: dict[str, int]
    segments: int


def standing(store: Store, workspace: Workspace) -> Standing:
    """Look at everything in the store by name; RemoteFailed."""
    made = {each.name.removesuffix(f"/{MANIFEST}") for each in store.listed("artifacts") if each.name.endswith(MANIFEST)}
    counts = Counter(name.split("/")[1] for name in made)
    here = [artifact for stage in Stage for artifact in artifacts(workspace, stage)]
    return Standing(
        where=store.where,
        held_by=holder(store, LOCK),
        artifacts={stage: counts[stage] for stage in Stage if counts[stage]},
        unsent=tuple(f"{each.stage.value} {each.artifact_id}" for each in here if name_of(each) not in made),
        checkpoints=_newest_steps(store.listed("checkpoints")),
        segments=sum(1 for _ in store.listed("ledger/label")),
    )


def _newest_steps(listed: Iterable[Listed]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each in listed:
        _, training, *rest = each.name.split("/")
        if len(rest) == 2 and rest[1] == MANIFEST and (step := rest[0].split("-")[1:2]) and step[0].isdecimal():
            found[training] = max(found.get(training, 0), int(step[0]))
    return found
