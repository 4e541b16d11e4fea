"""The audit of the privacy pass: a line for each run in one append-only file of the workspace, with kinds and counts, never values.

It is a file of its own, not a part of the events: `edgekiln data` alone keeps no event log, and a run's folder goes with the
run, while what was done about personal data must be told as long as there is a workspace.
"""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from core import __version__
from core.contract import ArtifactId, Contract, Sha256
from core.data import personal_patterns, privacy, secret_patterns
from core.data.card import shown_name
from core.data.limits import PrivacyLimits
from core.data.name_finders import identity
from core.data.privacy import PrivacyReport
from core.files import append_line, digest_of, sha256_of
from core.nouns import Dataset

REPORT = "privacy.json"
RULES = "privacy_rules"
NAMES = "name_finders"

_RULES = (personal_patterns, secret_patterns, privacy)
_LIBRARIES = ("phonenumberslite", "python-stdnum", "google-re2")


class AuditedSource(Contract):
    """A file that was read, without its folder."""

    name: str
    sha256: Sha256
    records: int


class AuditLine(Contract):
    """One run. With `reused` the dataset was there already, and the report is of the pass that made it, by the same rules."""

    at: datetime
    dataset: ArtifactId
    reused: bool
    edgekiln: str
    rules: Sha256
    name_finders: str
    regions: tuple[str, ...]
    report: PrivacyReport
    sources: tuple[AuditedSource, ...]


def tools(limits: PrivacyLimits) -> dict[str, str]:
    """Return what decides what is found: a hash of the rules and of their libraries' versions, the packages that find names."""
    if not limits.redact:
        return {}
    files = [sha256_of(Path(str(module.__file__))) for module in _RULES]
    names = {NAMES: identity()} if "name" in limits.kinds else {}
    return {RULES: digest_of([files, [version(library) for library in _LIBRARIES]]), **names}


def audit(path: Path, folder: Path, dataset: Dataset, limits: PrivacyLimits, since: datetime) -> AuditLine:
    """Add the line of a run that began at `since` to the file and return it; `folder` is the dataset's."""
    report = PrivacyReport.model_validate_json((folder / REPORT).read_bytes())
    line = AuditLine(
        at=datetime.now(UTC),
        dataset=dataset.artifact_id,
        reused=dataset.created_at < since,
        edgekiln=__version__,
        rules=dataset.tools[RULES],
        name_finders=dataset.tools.get(NAMES, ""),
        regions=limits.regions,
        report=report,
        sources=tuple(
            AuditedSource(name=shown_name(source.name), sha256=source.sha256, records=source.records)
            for source in dataset.sources
        ),
    )
    append_line(path, line.model_dump_json().encode())
    return line


def told(line: AuditLine) -> str:
    """Return what a pass did in one line."""
    report = line.report
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts.items()) or "none"
    before = "the earlier pass over the same files" if line.reused else "the privacy pass"
    aside = f", {report.rows_set_aside} set aside" if report.rows_set_aside else ""
    return f"{before} replaced values in {report.rows_redacted} of {report.rows} records{aside}: {kinds}"
