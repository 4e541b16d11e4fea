"""What a part of the doctor is made of: its checks, the probes it reads with, and how it judges what was read.

A part is a `Capability` listed in core/env/check.py, or one from a third party's package (group `edgekiln.env_checks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from core import catalogue
from core.catalogue import DeviceCard
from core.config import EnvConfig, Profile
from core.contract import Contract, Finding
from core.env.probe import Probe, Reading
from core.env.roles import EVERY, Role
from core.nouns import Fact


@dataclass(frozen=True)
class Context:
    """The job a machine is judged for; `beside` is the profile's folder, searched first for its model and device cards."""

    profile: Profile
    beside: Path
    roles: frozenset[Role]
    workspace: Path
    cache: Path

    @property
    def config(self) -> EnvConfig:
        """The thresholds."""
        return self.profile.env

    @property
    def remote_board(self) -> DeviceCard | None:
        """The board the profile measures on over SSH, None when it measures here."""
        card = catalogue.device(self.profile.bench.device, self.beside)
        return card if card.kind == "ssh" else None


class Check(Contract):
    """One thing that is looked at: `code` is its findings' code and what `env.skip` names.

    An error of it blocks the roles in `blocks` and only warns those in `warns`; other roles it does not concern at all.
    `remote` is for a check of the board a profile names; all others judge this machine.
    """

    code: str
    blocks: frozenset[Role] = EVERY
    warns: frozenset[Role] = frozenset()
    remote: bool = False

    @property
    def roles(self) -> frozenset[Role]:
        """The roles it concerns."""
        return self.blocks | self.warns


Readings = Mapping[str, Reading]
R = TypeVar("R", bound=Contract)


def value_of(readings: Readings, name: str, kind: type[R]) -> R | None:
    """Return what a probe read, None when it failed or did not run."""
    reading = readings.get(name)
    return None if reading is None or reading.value is None else kind.model_validate(reading.value)


def no_facts(_readings: Readings, _context: Context) -> list[Fact]:
    """Tell nothing."""
    return []


@dataclass(frozen=True)
class Capability:
    """A part of the doctor.

    `probes` are run in parallel, each in a process of its own; `findings` and `facts` are pure and see the readings of
    all parts, by probe name. A probe's name begins with the part's name. A finding's severity is what it is for a role
    in its check's `blocks`; core/env/check.py lowers it for the others. A probe that failed is told by check.py; findings
    and facts pass over a reading whose `value` is None, or say more than that about it.
    """

    name: str
    checks: tuple[Check, ...]
    probes: Callable[[Context], list[Probe]]
    findings: Callable[[Readings, Context], list[Finding]]
    facts: Callable[[Readings, Context], list[Fact]] = no_facts
