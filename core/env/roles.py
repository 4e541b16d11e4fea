"""The roles a machine can have in a job, which of them a profile gives this machine, and the verdict on each."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from core import catalogue
from core.config import Profile


class Role(StrEnum):
    """What a machine does in a job."""

    LABELER = "labeler"
    TRAINER = "trainer"
    EXPORTER = "exporter"
    BENCH_HOST = "bench-host"
    BOARD = "board"
    SERVER = "server"


class RoleVerdict(StrEnum):
    """Whether a machine can do a role."""

    HEALTHY = "healthy"
    WARNINGS = "warnings"
    BLOCKED = "blocked"


EVERY: frozenset[Role] = frozenset(Role)


def in_order(roles: Iterable[str]) -> tuple[Role, ...]:
    """Return roles in the order they are declared; ValueError for a name that is none."""
    named = {Role(role) for role in roles}
    return tuple(role for role in Role if role in named)


def roles_of(profile: Profile, beside: Path | None = None) -> frozenset[Role]:
    """Return the roles a profile needs filled; `beside` is its folder, searched first for the device's card.

    This machine asks the teacher, trains and exports; it measures too when the device is local, else a board does.
    """
    device = catalogue.device(profile.bench.device, beside)
    measures = Role.BOARD if device.kind == "ssh" else Role.BENCH_HOST
    return frozenset({Role.LABELER, Role.TRAINER, Role.EXPORTER, measures})
