"""A training's tie to the workspace's second home: its newest checkpoint is fetched, new ones are sent, an eviction is seen through.

All of it is the caller's, not the worker's: it needs no torch, and goes on while a worker that was stopped or killed is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.contract import Stage
from core.errors import Evicted
from core.events import Event, Leaving, Note, OnEvent
from core.train.carrier import Carrier
from core.train.eviction import acknowledge
from core.train.fetching import fetch_newest
from core.train.limits import EvictionLimits
from core.workspace import Workspace


@contextmanager
def carried(workspace: Workspace, staged: Path, limits: EvictionLimits, on_event: OnEvent) -> Iterator[OnEvent]:
    """Fetch the newest verified checkpoint where it is further than those here, send those made in the block; yield its sink.

    `staged` is the training's scratch folder, its name the same on every machine. When the machine is taken away the newest
    checkpoint is sent in the time there is, and the cloud then told that it may go. RemoteFailed when no checkpoint lies
    here and the store cannot say whether it has one; nothing else of the store's troubles reaches the training.
    """
    hearing = _Hearing(on_event)
    carrier: Carrier | None = None
    try:
        with ExitStack() as stack:
            if workspace.home is not None:
                home = workspace.home
                fetch_newest(home.store, staged, workspace.root / "quarantine", on_event)
                carrier = stack.enter_context(Carrier(home.store, staged, limits, hearing, home.check))
            yield carrier or hearing
    except Evicted:
        if hearing.leaving and hearing.leaving.source == "Azure" and (carrier is None or carrier.newest_is_sent):
            _let_go(limits, on_event)
        raise


class _Hearing:
    """Hands events on and remembers that the worker must leave."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.leaving: Leaving | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, Leaving):
            self.leaving = event
        self._on_event(event)


def _let_go(limits: EvictionLimits, on_event: OnEvent) -> None:
    told = "knows now" if acknowledge(limits) else "was not told"
    on_event(Note(stage=Stage.TRAIN, text=f"everything is saved; Azure {told} that this machine may go"))
