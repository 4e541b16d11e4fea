"""Memory watched while a training runs: before it runs out, caches are freed, the training pauses, or asks to be made smaller.

Making it smaller is the supervisor's: it hears MemoryLow with `shrink-asked`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import psutil

from core.contract import Stage
from core.env import cgroup
from core.events import Continued, MemoryLow, OnEvent, Progress
from core.train.limits import HeadroomLimits

Place = Literal["GPU", "host", "cgroup"]

_LOOK_S = 1.0  # memory is not looked at more often than this
_AGAIN_S = 30.0  # nor are caches freed more often while it stays low: each time costs some allocations
_MIB = 1 << 20
_CALM = 1.25  # it counts as low until so many times the limit is left, so that nothing flutters around the limit


class Room(NamedTuple):
    """Memory of a place in bytes: what is left, all of it, and what this training holds of it."""

    place: Place
    free_bytes: int
    total_bytes: int
    own_bytes: int

    @property
    def others_bytes(self) -> int:
        """What other programs hold."""
        return self.total_bytes - self.free_bytes - self.own_bytes


def host_rooms() -> list[Room]:
    """Return this machine's RAM and, in a container with a limit, what is left of that."""
    memory, own = psutil.virtual_memory(), psutil.Process().memory_info().rss
    rooms = [Room("host", memory.available, memory.total, own)]
    if (limited := cgroup.memory_room()) is not None:
        rooms.append(Room("cgroup", *limited, own))
    return rooms


class Headroom:
    """Looks at memory between two steps and does what is due; never raises and never stops a training.

    `look` returns the rooms there are, `free` gives caches back, `stopping` says whether a pause must end now.
    """

    def __init__(
        self,
        limits: HeadroomLimits,
        on_event: OnEvent,
        *,
        look: Callable[[], Sequence[Room]],
        free: Callable[[], None],
        stopping: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        mib = {"GPU": limits.min_gpu_mib, "host": limits.min_host_mib, "cgroup": limits.min_cgroup_mib}
        self._limits = {place: size * _MIB for place, size in mib.items()}
        self._patience_s = limits.patience_s
        self._on_event = on_event
        self._look = look
        self._free = free
        self._stopping = stopping
        self._clock = clock
        self._sleep = sleep
        self._others: dict[str, int] = {}  # what others hold from the start: CUDA's context is nobody's allocation too
        self._looked = self._freed = -_AGAIN_S
        self._low: set[str] = set()

    def mind(self, step: int) -> None:
        """Look after a step, at most once a second; a pause ends when memory is back, at a stop, or after the patience."""
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        rooms = self._look()
        self._others = self._others or {room.place: room.others_bytes for room in rooms}
        self._low = {r.place for r in rooms if r.place in self._low and r.free_bytes < _CALM * self._limits[r.place]}
        if not self._short(rooms) or (self._low and now - self._freed < _AGAIN_S):
            return
        self._freed = now
        self._free()
        for room in self._short(rooms):
            self._tell(step, room, "caches-freed")
        for room in self._short(self._look()):
            self._answer(step, room)

    def _short(self, rooms: Sequence[Room]) -> list[Room]:
        return [room for room in rooms if room.free_bytes < self._limits[room.place]]

    def _answer(self, step: int, room: Room) -> None:
        """Pause where others took the memory, else ask to be made smaller, once for as long as it stays low."""
        if room.place in self._low:
            return
        self._low.add(room.place)
        taken_by_others = room.others_bytes - self._others.get(room.place, 0)
        if taken_by_others >= self._limits[room.place] - room.free_bytes and self._patience_s > 0:
            self._tell(step, room, "paused")
            self._wait(room.place)
            self._on_event(Continued(stage=Stage.TRAIN))
        else:
            self._tell(step, room, "shrink-asked")

    def _wait(self, place: str) -> None:
        began = self._clock()
        while (waited := self._clock() - began) < self._patience_s and not self._stopping():
            # said at each look: a training that waits is not one that hangs
            self._on_event(
                Progress(stage=Stage.TRAIN, task=f"memory, {place}", done=waited, total=self._patience_s, unit="s")
            )
            self._sleep(_LOOK_S)
            if place not in {room.place for room in self._short(self._look())}:
                return

    def _tell(self, step: int, room: Room, action: Literal["caches-freed", "paused", "shrink-asked"]) -> None:
        self._on_event(
            MemoryLow(
                step=step,
                place=room.place,
                free_bytes=room.free_bytes,
                total_bytes=room.total_bytes,
                limit_bytes=self._limits[room.place],
                action=action,
            )
        )
