"""Mends an environment's packages: a plan, a snapshot, pip or uv, and a look afterwards. What is wrong is judged in faults.py."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.config import cache_folder
from core.contract import Contract
from core.env import snapshot as snapshots
from core.env.faults import Fault, Wish, find_faults
from core.env.installed import Installer, Source, Survey, Tool, installer_for, survey
from core.errors import ProcessFailed, RepairFailed
from core.events import Note, OnEvent, ignore
from core.files import disk_full_is_an_error
from core.package_index import heartbeat, hold
from core.process import run

_TIMEOUT_S = 3600.0  # a CUDA build of torch is gigabytes


class Change(Contract):
    """A package that is another than before; None is "not installed"."""

    name: str
    before: str | None
    after: str | None


class Repaired(Contract):
    """What a repair did: faults before and after, what changed, and the snapshot to go back to."""

    snapshot_id: str
    faults_before: int
    faults_after: tuple[Fault, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Plan:
    """What is wrong with an environment, and with what it would be mended."""

    found: Survey
    wish: Wish
    faults: tuple[Fault, ...]
    installer: Installer
    source: Source

    @property
    def doable(self) -> tuple[Fault, ...]:
        """The faults that an installer can mend."""
        return tuple(fault for fault in self.faults if fault.by_hand is None)

    def only(self, chosen: Iterable[Fault]) -> Plan:
        """Return the plan with the chosen faults alone."""
        return replace(self, faults=tuple(chosen))

    def commands(self) -> list[list[str]]:
        """Return the argument lists that would be run, in order."""
        again = [fault.requirement for fault in self.doable if fault.requirement and fault.again]
        fresh = [fault.requirement for fault in self.doable if fault.requirement and not fault.again]
        found = [self.installer.install(again, self.source, again=True)] if again else []
        return found + ([self.installer.install(fresh, self.source)] if fresh else [])


def make_plan(python: Path, wish: Wish, source: Source, scratch: Path, *, tool: Tool = "auto") -> Plan:
    """Look at an environment and say what would be done; nothing is changed.

    ToolMissing when its interpreter or every installer is missing.
    """
    found = survey(python, scratch)
    faults = tuple(find_faults(found, wish))
    return Plan(found, wish, faults, installer_for(found, tool), source)


def preview(plan: Plan, scratch: Path, on_event: OnEvent = ignore) -> str:
    """Return what the installer says it would install, dependencies too.

    RepairFailed when it finds no way, or the environment belongs to the system: its pip would only say so less clearly.
    """
    _refuse_system(plan.found)
    told = []
    for argv in plan.commands():
        at = argv.index("install") + 1
        printed = cache_folder() / "logs" / "env-fix-preview.log"  # kept: an error names it
        printed.unlink(missing_ok=True)
        _run(
            [*argv[:at], "--dry-run", *argv[at:]],
            printed,
            scratch,
            on_event,
            "Nothing was changed; --guided takes the steps one by one.",
        )
        told += [line.strip() for line in printed.read_text(encoding="utf-8").splitlines() if _tells(line)]
    return "\n".join(told)


def _tells(line: str) -> bool:
    """Tell the lines that name packages: pip's last one, uv's list."""
    return line.startswith(("Would install", " + ", " - ", " ~ "))


def apply(plan: Plan, scratch: Path, on_event: OnEvent = ignore) -> Repaired:
    """Take a snapshot, mend what the plan names, look again.

    RepairFailed when the environment belongs to the system, or the installer could not do it: the snapshot is there then.
    """
    _refuse_system(plan.found)
    prefix = Path(plan.found.prefix)
    with hold(prefix / snapshots.FOLDER / "one-at-a-time") as lock:
        taken = snapshots.take(plan.found, plan.installer, scratch)
        on_event(Note(stage=None, text=f"snapshot {taken.snapshot_id} lies in {snapshots.folder_of(taken)}"))
        log = snapshots.folder_of(taken) / "apply.log"
        _clear(plan.found, [path for fault in plan.doable for path in fault.clear])
        for argv in plan.commands():
            back = f"Go back with: edgekiln env fix --rollback --python {plan.found.python}"
            _run(argv, log, scratch, on_event, back, pass_fds=[lock])
        after = survey(Path(plan.found.python), scratch)
        snapshots.prune(prefix)
    return Repaired(
        snapshot_id=taken.snapshot_id,
        faults_before=len(plan.faults),
        faults_after=tuple(find_faults(after, plan.wish)),
        changes=changes(plan.found, after),
    )


def _refuse_system(found: Survey) -> None:
    if found.prefix == found.base_prefix and found.managed_by_system:
        raise RepairFailed(
            f"{found.prefix} belongs to the system's package manager (EXTERNALLY-MANAGED)",
            remedy="Work in a virtual environment: make setup",
        )


def _clear(found: Survey, paths: Sequence[str]) -> None:
    """Remove broken metadata and leftovers; the snapshot has them. Only what lies directly among the packages."""
    for path in map(Path, paths):
        if str(path.parent) not in found.sites or not path.is_relative_to(found.prefix):
            raise RepairFailed(f"{path} lies outside of {found.prefix}", remedy="Remove it by hand.")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _run(
    argv: Sequence[str], log: Path, scratch: Path, on_event: OnEvent, then: str, *, pass_fds: Sequence[int] = ()
) -> None:
    try:
        with disk_full_is_an_error(log.parent):
            tick = heartbeat("installing", on_event)
            run(argv, log=log, timeout_s=_TIMEOUT_S, cwd=scratch, on_tick=tick, pass_fds=pass_fds)
    except ProcessFailed as error:
        raise RepairFailed(error.problem, remedy=f"Read {log}. {then}") from error


def changes(before: Survey, after: Survey) -> tuple[Change, ...]:
    """Return the packages whose version differs between two surveys, by name."""
    old, new = before.versions(), after.versions()
    return tuple(
        Change(name=name, before=old.get(name), after=new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )


def roll_back(python: Path, scratch: Path, snapshot_id: str | None = None) -> tuple[snapshots.Snapshot, tuple[Change, ...]]:
    """Put an environment back to a snapshot, the newest if none is named, and return what changed.

    RepairFailed when there is none, when it was altered, or when the package set is not the same afterwards.
    """
    found = survey(python, scratch)
    prefix = Path(found.prefix)
    chosen = snapshots.pick(prefix, snapshot_id)
    with hold(prefix / snapshots.FOLDER / "one-at-a-time"):
        snapshots.restore(chosen, scratch)
    return chosen, changes(found, survey(python, scratch))
