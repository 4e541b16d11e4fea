"""Headroom: what is done when memory gets short, by rooms that are given, and what this machine and its cgroup tell."""

from __future__ import annotations

from dataclasses import dataclass, field

import psutil
import pytest

from core.env.cgroup import memory_room
from core.train.headroom import Headroom, Room, host_rooms
from core.train.limits import HeadroomLimits

MIB = 1 << 20
LIMITS = HeadroomLimits(min_host_mib=500, min_gpu_mib=100, patience_s=30)


@dataclass
class Machine:
    """A machine whose memory is set by the test: a real one cannot be asked to run out of it."""

    free_mib: float = 4000
    own_mib: float = 1000
    given_back_mib: float = 0
    others_leave_after_s: float = float("inf")
    now: float = 0.0
    stopping: bool = False
    heard: list = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    frees: int = 0
    looks: int = 0

    def look(self) -> list[Room]:
        self.looks += 1
        free = 4000 if self.now >= self.others_leave_after_s else self.free_mib
        return [Room("host", int(free * MIB), 8000 * MIB, int(self.own_mib * MIB))]

    def free(self) -> None:
        self.frees += 1
        self.free_mib += self.given_back_mib

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def headroom(self, limits: HeadroomLimits = LIMITS) -> Headroom:
        made = Headroom(
            limits,
            self.heard.append,
            look=self.look,
            free=self.free,
            stopping=lambda: self.stopping,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        made.mind(1)
        self.now += 2
        return made

    @property
    def told(self) -> list[str]:
        return [getattr(event, "action", event.kind) for event in self.heard if event.kind != "progress"]


def test_nothing_is_done_while_there_is_enough():
    machine = Machine()
    headroom = machine.headroom()
    for step in range(2, 50):
        machine.now += 2
        headroom.mind(step)
    assert (machine.told, machine.frees) == ([], 0)


def test_caches_that_are_enough_are_all_it_takes():
    machine = Machine(given_back_mib=900)
    headroom = machine.headroom()
    machine.free_mib = 300
    headroom.mind(2)
    assert machine.told == ["caches-freed"]
    (event,) = machine.heard
    assert (event.step, event.place, event.free_bytes, event.limit_bytes) == (2, "host", 300 * MIB, 500 * MIB)


def test_a_training_that_grew_by_itself_asks_once_to_be_made_smaller():
    machine = Machine()
    headroom = machine.headroom()
    machine.free_mib, machine.own_mib = 300, 4700
    for step in range(2, 9):
        headroom.mind(step)
        machine.now += 10
    assert machine.told == ["caches-freed", "shrink-asked", "caches-freed", "caches-freed"]  # freed again each half minute
    assert machine.slept == []


def test_it_waits_for_others_who_took_the_memory_and_goes_on_when_they_give_it_back():
    machine = Machine()
    headroom = machine.headroom()
    machine.free_mib, machine.others_leave_after_s = 300, 12
    headroom.mind(2)
    assert machine.told == ["caches-freed", "paused", "continued"]
    assert 10 <= machine.now <= 13


def test_it_waits_no_longer_than_its_patience_nor_past_a_stop():
    machine = Machine()
    headroom = machine.headroom()
    machine.free_mib = 300
    headroom.mind(2)
    assert sum(machine.slept) == pytest.approx(30)
    assert len([event for event in machine.heard if event.kind == "progress"]) == 30  # who watches knows that it lives
    stopped = Machine()
    headroom = stopped.headroom()
    stopped.free_mib, stopped.stopping = 300, True
    headroom.mind(2)
    assert (stopped.told, stopped.slept) == (["caches-freed", "paused", "continued"], [])


def test_after_memory_was_there_again_shortage_is_told_anew():
    machine = Machine()
    headroom = machine.headroom()
    for free in (300, 4000, 300):
        machine.free_mib, machine.own_mib = free, 8000 - free - 3000
        machine.now += 40
        headroom.mind(2)
    assert machine.told == ["caches-freed", "shrink-asked"] * 2


def test_memory_is_not_looked_at_at_every_step_of_a_fast_training():
    machine = Machine()
    headroom = machine.headroom()
    for step in range(1000):
        headroom.mind(step)
        machine.now += 0.01
    assert 9 <= machine.looks <= 12


def test_this_machine_tells_its_memory():
    rooms = {room.place: room for room in host_rooms()}
    host = rooms["host"]
    assert host.total_bytes == psutil.virtual_memory().total
    assert 0 < host.own_bytes < host.total_bytes
    assert 0 < host.free_bytes < host.total_bytes


@pytest.mark.parametrize(
    ("limit", "current", "idle"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_a_cgroup_has_left_what_its_tightest_group_has_with_pages_that_can_go(tmp_path, limit, current, idle):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    for folder, (most, used, pages) in {inner: (1000, 700, 200), inner.parent: (5000, 4900, 0)}.items():
        (folder / limit).write_text(f"{most * MIB}\n")
        (folder / current).write_text(f"{used * MIB}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{idle} {pages * MIB}\n")
    membership = tmp_path / "membership"
    membership.write_text("0::/outer/inner\n")
    assert memory_room(tmp_path, membership) == (100 * MIB, 5000 * MIB)
    (inner.parent / limit).write_text("max\n")
    assert memory_room(tmp_path, membership) == (500 * MIB, 1000 * MIB)
    assert memory_room(tmp_path / "nothing", membership) is None
