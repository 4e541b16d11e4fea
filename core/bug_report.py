"""Gathers what a person can attach to a report of a mistake: one text without secrets. It is never sent."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core import __version__
from core.contract import Finding, Stage, utc
from core.env.installed import survey
from core.errors import EdgekilnError
from core.events import parse_event
from core.nouns import EnvReport
from core.redaction import Person, redact
from core.runs import RunRecord, runs
from core.sinks import describe
from core.workspace import Workspace, artifacts

_RUNS = 5
_EVENTS = 30
_CRASH_LINES = 150
_TAIL_BYTES = 64 << 10
_FENCE = "~~~~"


def report(
    workspace: Workspace,
    *,
    cache: Path,
    scratch: Path,
    environ: Mapping[str, str],
    person: Person,
    config: Mapping[str, Any] | None = None,
) -> str:
    """Return the report; `config` is the profile asked for, else that of the newest run. Every line passes the redaction."""
    recent = runs(workspace)[:_RUNS]
    told = config if config is not None else (recent[0].config if recent else None)
    sections = {
        "Versions": _versions(),
        "Findings": _findings(workspace),
        "Runs": _runs(recent),
        "Events of the newest run that failed": _events(workspace, recent),
        "Crashes": _tail(cache / "crash.log")[-_CRASH_LINES:] or ["none are recorded"],
        "Configuration": _settings(told, environ, person) if told is not None else ["no run has one yet"],
        "Packages": _packages(scratch),
    }
    text = "".join(_section(title, lines) for title, lines in sections.items())
    head = f"# edgekiln bug report, {utc(datetime.now(UTC))}\n\nRead it before you attach it anywhere. Nothing was sent.\n"
    return redact(head + text, environ, person)


def _section(title: str, lines: Iterable[str]) -> str:
    body = "\n".join(line.replace(_FENCE, "~ ~ ~ ~") for line in lines)
    return f"\n## {title}\n\n{_FENCE}\n{body}\n{_FENCE}\n"


def _versions() -> list[str]:
    return [
        f"edgekiln {__version__}",
        f"Python {platform.python_version()} ({platform.python_implementation()}), {sys.executable}",
        f"{platform.system()} {platform.release()}, {platform.machine()}",
    ]


def _findings(workspace: Workspace) -> list[str]:
    reports = [each for each in artifacts(workspace, Stage.ENV) if isinstance(each, EnvReport)]
    if not reports:
        return ["no report lies in the workspace; `edgekiln env` writes one"]
    last = reports[-1]
    roles = ", ".join(f"{role.value} {verdict.value}" for role, verdict in last.roles.items())
    facts = [f"{fact.name}: {fact.value} ({fact.source})" for fact in last.facts]
    return [f"report {last.artifact_id} of {utc(last.created_at)}; {roles}", *facts, *map(_finding, last.findings)]


def _finding(finding: Finding) -> str:
    return (
        f"[{finding.severity.value}] {finding.code} {finding.where}: {finding.evidence}; cause: {finding.cause};"
        f" fix: {finding.remedy}"
    )


def _runs(recent: Iterable[RunRecord]) -> list[str]:
    lines = []
    for run in recent:
        lines.append(f"{run.run_id} of {run.profile}: {run.status.value}, {len(run.artifacts)} stages done")
        lines += [f"  {line}" for line in (run.error or "").splitlines()]
    return lines or ["there are none"]


def _events(workspace: Workspace, recent: Iterable[RunRecord]) -> list[str]:
    failed = next((run for run in recent if run.error), None)
    if failed is None:
        return ["no recent run failed"]
    lines = _tail(workspace.run_folder(failed.run_id) / "events.jsonl")
    return list(_described(lines))[-_EVENTS:] or ["none were kept"]


def _described(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        try:
            event = parse_event(line)
        except ValidationError:
            continue  # the first line of a tail is cut
        yield f"{utc(event.at)} {describe(event)}"


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return stream.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _settings(config: Mapping[str, Any], environ: Mapping[str, str], person: Person) -> list[str]:
    """Return the configuration as JSON; each text is redacted before JSON's quoting could hide it from the redaction."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return redact(value, environ, person)
        if isinstance(value, Mapping):
            return {str(key): clean(inner) for key, inner in value.items()}
        return [clean(inner) for inner in value] if isinstance(value, list | tuple) else value

    return json.dumps(clean(config), indent=1, ensure_ascii=False, default=str).splitlines()


def _packages(scratch: Path) -> list[str]:
    try:
        found = survey(Path(sys.executable), scratch)
    except EdgekilnError as error:
        return [error.problem]
    broken = {one.key for one in found.distributions if one.broken_count or not (one.has_metadata and one.has_record)}
    return sorted(
        f"{one.name} {one.version or 'of no version'}{' (incomplete)' if one.key in broken else ''}"
        f"{' (from a folder)' if one.origin.get('dir_info') is not None else ''}"
        for one in found.distributions
    )
