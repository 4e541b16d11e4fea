"""`edgekiln env fix`, `lock` and `compare`: mend the installation, write it down exactly, hold two machines side by side."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from flows.cli.session import Common, answer, begin, drawn, named_path, tree, write_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.contract import Finding
    from core.env.faults import Fault
    from core.env.installed import Source
    from core.env.lock import Verified
    from core.env.repair import Change, Plan, Repaired
    from core.events import Event, OnEvent
    from core.report.table import Cell, Table

_DEFAULT_COMMON = Common()
_Flag = Annotated[bool, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Mend:
    """What `fix` does, with what."""

    apply: _Flag = False
    "Mend it after asking; a snapshot is taken first"
    yes: _Flag = False
    "With --apply: do not ask"
    guided: _Flag = False
    "Explain each step and ask for each"
    rollback: _Flag = False
    "Put every package back to the snapshot taken before the last --apply"
    snapshot: str | None = None
    "With --rollback: this snapshot instead of the newest"
    wheelhouse: Path | None = None
    "Take packages from this folder alone, without a network; `make wheelhouse` fills one"
    python: Path | None = None
    "Mend the environment of this interpreter instead of the one edgekiln runs in"
    installer: Literal["auto", "pip", "uv"] = "auto"
    "auto takes uv when it is there"
    profile: str = "demo"
    "The job the machine is judged for"


_DEFAULT_MEND = Mend()


def fix(*, mend: Mend = _DEFAULT_MEND, common: Common = _DEFAULT_COMMON) -> None:
    """Say what is wrong with the installation and what would mend it; changes nothing unless told to, and asks first."""
    from core.env.installed import source_of
    from core.env.project import constraints

    _refuse_together(mend)
    sink = begin(common)
    target = (mend.python or Path(sys.executable)).absolute()
    with tempfile.TemporaryDirectory(prefix="edgekiln-fix-") as folder:
        scratch = Path(folder)
        if mend.rollback:
            return _roll_back(common, target, scratch, mend.snapshot)
        plan = _plan(target, source_of(mend.wheelhouse, constraints()), mend.installer, scratch)
        judged = mend.profile if mend.python is None else None
        by_hand = _others(common, judged, sink) if judged else []
        if not (mend.apply or mend.guided):
            return _show_plan(common, plan, by_hand)
        chosen = _ask_each(plan, scratch, sink) if mend.guided else _ask_all(plan, scratch, sink, yes=mend.yes)
        return _mend(common, chosen, scratch=scratch, sink=sink, before=by_hand, profile=judged)


def _refuse_together(mend: Mend) -> None:
    from core.errors import UsageError

    if mend.rollback and (mend.apply or mend.guided):
        raise UsageError("--rollback cannot be used with --apply or --guided", remedy="Name one of them.")
    if mend.snapshot and not mend.rollback:
        raise UsageError("--snapshot is for --rollback", remedy="Add --rollback, or leave --snapshot out.")
    if mend.yes and (not mend.apply or mend.guided):
        raise UsageError("--yes is for --apply alone", remedy="Use --apply --yes, or leave --yes out.")
    if (mend.guided or (mend.apply and not mend.yes)) and not sys.stdin.isatty():
        raise UsageError(
            "nobody can be asked: standard input is no terminal", remedy="Use --apply --yes, or run it in a terminal."
        )


def _plan(target: Path, source: Source, installer: Literal["auto", "pip", "uv"], scratch: Path) -> Plan:
    from dataclasses import replace

    from core.env import project, repair

    plan = repair.make_plan(target, project.wish(scratch, source.constraints), source, scratch, tool=installer)
    return replace(plan, faults=(*plan.faults, *project.own_fault(plan.found)))


def _others(common: Common, profile: str, sink: OnEvent, *, anew: bool = False) -> list[Finding]:
    """Return what else is wrong with this machine, which no package mends."""
    from core import config
    from core.contract import Severity
    from core.env.check import examine
    from core.env.faults import CODE
    from core.events import Found
    from core.workspace import locked

    def told(event: Event) -> None:
        if not isinstance(event, Found):
            sink(event)

    workspace = tree(common, ("env",) if anew else ())
    with locked(workspace, "edgekiln env fix"):
        report = examine(config.load(profile), workspace, config.find_profile(profile).parent, on_event=told)
    ours = {CODE, "torch-build"}  # told as faults
    return [f for f in report.findings if f.code not in ours and f.severity is not Severity.INFO]


def _show_plan(common: Common, plan: Plan, by_hand: Sequence[Finding]) -> None:
    commands = plan.commands()
    document = {
        "environment": plan.found.prefix,
        "faults": [{**fault.model_dump(mode="json"), "deed": fault.deed} for fault in plan.faults],
        "commands": commands,
        "by_hand": [finding.model_dump(mode="json") for finding in by_hand],
    }
    parts = [drawn(_faults_table(plan)) if plan.faults else f"The packages in {plan.found.prefix} are as they must be.\n"]
    parts += [drawn(_by_hand_table(by_hand))] if by_hand else []
    parts += ["Would run:", *(f"  {shlex.join(argv)}" for argv in commands)] if commands else []
    parts += ["Nothing was changed. The same command with --apply mends it."] if plan.doable else ["Nothing to install."]
    answer(common, document, "\n".join(parts))


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Table:
    from core.report.table import Column, Table

    made = tuple(Column(key=name.replace(" ", "_"), title=name) for name in columns)
    return Table(title=title, columns=made, rows=tuple(tuple(row) for row in rows))


def _faults_table(plan: Plan) -> Table:
    rows = [(fault.name, fault.kind.value, fault.evidence, fault.deed) for fault in plan.faults]
    return _table(f"Packages in {plan.found.prefix}", ("package", "what", "evidence", "what would be done"), rows)


def _by_hand_table(findings: Sequence[Finding]) -> Table:
    rows = [(f.severity.value, f.code, f"{f.where}: {f.evidence}", f"{f.remedy}{_argv(f)}") for f in findings]
    return _table("What no package mends", ("severity", "check", "evidence", "what to do"), rows)


def _argv(finding: Finding) -> str:
    return f"\n{shlex.join(finding.remedy_argv)}" if finding.remedy_argv else ""


def _ask_all(plan: Plan, scratch: Path, sink: OnEvent, *, yes: bool) -> Plan:
    from core.env.repair import preview

    if plan.doable:
        told = preview(plan, scratch, sink)
        _still(sink)
        print(drawn(_faults_table(plan)), told, sep="\n", file=sys.stderr)
        if not yes and not _says_yes("Do this? A snapshot is taken first"):
            return plan.only(())
    return plan.only(plan.doable)


def _ask_each(plan: Plan, scratch: Path, sink: OnEvent) -> Plan:
    chosen: list[Fault] = []
    for number, fault in enumerate(plan.doable, 1):
        print(f"\n{number} of {len(plan.doable)}: {fault.name}: {fault.kind.value}", file=sys.stderr)
        told, possible = _explained(fault, plan.only([fault]), scratch, sink)
        _still(sink)
        print("\n".join(told), file=sys.stderr)
        if possible and _says_yes("Do this step?"):
            chosen.append(fault)
    return plan.only(chosen)


def _explained(fault: Fault, step: Plan, scratch: Path, sink: OnEvent) -> tuple[list[str], bool]:
    """Return what a step is and does, the installer's own word included, and whether it can be done at all."""
    from core.env.repair import preview
    from core.errors import RepairFailed

    lines = [
        f"  what was read: {fault.evidence}",
        f"  likely cause:  {fault.cause}",
        f"  what is done:  {fault.deed}",
        *(f"  command:       {shlex.join(argv)}" for argv in step.commands()),
    ]
    try:
        said = preview(step, scratch, sink)
    except RepairFailed as error:
        return [*lines, f"  cannot be done: {error.problem}"], False
    says = [f"  installer:     {line}" for line in said.splitlines()]
    return [*lines, *says, "  going back:    edgekiln env fix --rollback"], True


def _still(sink: OnEvent) -> None:
    """Take the bars away: beside a live one Rich holds back what ends without a line's end, as a question does."""
    from flows.cli.terminal import Terminal

    if isinstance(sink, Terminal):
        sink.clear()


def _says_yes(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _mend(
    common: Common, plan: Plan, *, scratch: Path, sink: OnEvent, before: Sequence[Finding], profile: str | None
) -> None:
    from core.env import repair

    if not plan.faults:
        answer(common, {"changes": [], "snapshot": None}, "Nothing was changed.")
        return
    done = repair.apply(plan, scratch, sink)
    after = _others(common, profile, sink, anew=True) if profile else []
    counts = {"faults_before": len(plan.faults), "faults_after": len(_left(plan, done))}
    counts |= {"findings_before": len(before), "findings_after": len(after)} if profile else {}
    document = {"snapshot": done.snapshot_id, **counts, "changes": [change.model_dump() for change in done.changes]}
    told = [f"  {name.replace('_', ' ')}: {count}" for name, count in counts.items()]
    back = f"  go back with:  edgekiln env fix --rollback{'' if profile else f' --python {plan.found.python}'}"
    answer(common, document, "\n".join([drawn(_changes_table(done.changes)), *told, back]))
    _refuse_left(plan, done)


def _left(plan: Plan, done: Repaired) -> list[Fault]:
    """Return the faults that were to be mended and are still there."""
    asked = {fault.name for fault in plan.faults}
    return [fault for fault in done.faults_after if fault.name in asked]


def _refuse_left(plan: Plan, done: Repaired) -> None:
    from core.errors import RepairFailed

    if left := _left(plan, done):
        raise RepairFailed(
            f"{len(left)} of {len(plan.faults)} faults are still there, the first: {left[0].evidence}",
            remedy="Look at the plan again with `edgekiln env fix`, or go back with `edgekiln env fix --rollback`.",
        )


def _changes_table(changes: Sequence[Change]) -> Table:
    rows = [(change.name, change.before or "not there", change.after or "not there") for change in changes]
    return _table("Changed packages", ("package", "before", "after"), rows)


def _roll_back(common: Common, target: Path, scratch: Path, snapshot: str | None) -> None:
    from core.env.repair import roll_back

    taken, changes = roll_back(target, scratch, snapshot)
    text = f"{drawn(_changes_table(changes))}  the package set is that of snapshot {taken.snapshot_id}, byte for byte"
    answer(common, {"snapshot": taken.snapshot_id, "changes": [change.model_dump() for change in changes]}, text)


def lock(
    *,
    output: Annotated[Path | None, Parameter(alias="-o", converter=named_path)] = None,
    verify: Path | None = None,
    wheelhouse: Path | None = None,
    python: Path | None = None,
    strict: _Flag = False,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Write every installed package with its exact version and hash, or check the installation against such a file.

    Parameters
    ----------
    output
        File to write instead of standard output
    verify
        A file written by this command: say what differs
    wheelhouse
        A folder with the packages' files: hashes come from it, and installed files are compared with them
    python
        The interpreter of another environment
    strict
        With --verify: a package that is not locked is exit status 5
    """
    from core.env import lock as locking
    from core.env.installed import source_of, survey

    sink = begin(common)
    source = source_of(wheelhouse, None)
    with tempfile.TemporaryDirectory(prefix="edgekiln-lock-") as folder:
        found = survey((python or Path(sys.executable)).absolute(), Path(folder))
        if verify is not None:
            _show_differences(common, locking.verify(found, locking.read_lock(verify), wheelhouse), verify, strict=strict)
            return
        locked = locking.lock(found, source, Path(folder), sink)
    text = locking.render(locked, found)
    if output is not None:
        write_named(output, text)
        text = f"{output} locks {len(locked.packages)} packages"
    answer(common, locked.model_dump(mode="json"), text.rstrip("\n"))


def _show_differences(common: Common, verified: Verified, verify: Path, *, strict: bool) -> None:
    from core.env.lock import blocking
    from core.errors import BlockedByCheck, GateRefused

    told, unchecked = verified.differences, len(verified.unchecked)
    rows = [(one.kind.value, one.name, one.locked or "none", one.installed or "none", one.evidence) for one in told]
    table = _table(f"Against {verify}", ("what", "package", "locked", "installed", "evidence"), rows)
    right = "the environment is" if not unchecked else "versions and installed files are"
    text = drawn(table).rstrip() if told else f"{right} as {verify} has {'it' if not unchecked else 'them'}"
    if unchecked:
        text += (
            f"\n{unchecked} packages' archive hashes could not be checked: name a folder with their files by --wheelhouse"
        )
    answer(common, verified.model_dump(mode="json"), text)
    if blocks := blocking(told):
        first = blocks[0]
        raise BlockedByCheck(
            f"{len(blocks)} packages > 0 differ from {verify}, the first: {first.name} {first.kind.value}: {first.evidence}",
            remedy=f"pip install --force-reinstall --require-hashes --no-deps -r {shlex.quote(str(verify))}",
        )
    if told and strict:
        raise GateRefused(
            f"{len(told)} packages > 0 are not locked under --strict, the first: {told[0].name}",
            remedy="Uninstall them, or write the lock again with `edgekiln env lock -o FILE`.",
        )


def compare(a: Path, b: Path, *, strict: _Flag = False, common: Common = _DEFAULT_COMMON) -> None:
    """Say what is better, worse, new or gone in B, and what to do on B to become A.

    Parameters
    ----------
    a
        A file of `edgekiln env --json`
    b
        Another one
    strict
        What got worse is exit status 5
    """
    from core.env import compare as comparing
    from core.errors import GateRefused

    found = comparing.compare(comparing.read_document(a), comparing.read_document(b))
    rows = [(one.move.value, one.what, one.name, one.a or "none", one.b or "none") for one in found.differences]
    parts = [drawn(_table(f"From {a} to {b}", ("change", "what", "name", "in A", "in B"), rows))] if rows else []
    steps = [(one.why, f"{one.remedy}{f'{chr(10)}{shlex.join(one.argv)}' if one.argv else ''}") for one in found.todo]
    parts += [drawn(_table("To make B like A", ("why", "what to do"), steps))] if steps else []
    answer(common, found.model_dump(mode="json"), "\n".join(parts) or f"{a} and {b} tell the same")
    worse = [one for one in found.differences if one.move is comparing.Move.REGRESSED]
    if strict and worse:
        raise GateRefused(
            f"{len(worse)} > 0 got worse under --strict, the first: {worse[0].what} {worse[0].name}",
            remedy="Do what the second table says, then compare again.",
        )
