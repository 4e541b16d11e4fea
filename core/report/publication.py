"""What was sent to others, or would be: a row a file."""

from __future__ import annotations

from core.publish.publish import Delivery
from core.report.table import Column, Table

_MIB = 1 << 20
_COLUMNS = (
    Column(key="file", title="file"),
    Column(key="size_mib", title="size", unit="MiB", digits=2, align="right"),
    Column(key="state", title="state"),
    Column(key="sha256", title="sha256"),
)


def delivery_table(delivery: Delivery) -> Table:
    """Return a row a published file with its state, and what it came to below."""
    told, sent = delivery.publication, "would be sent" if delivery.dry_run else "sent"
    rows = tuple(
        (file.path, file.bytes / _MIB, sent if file.path in delivery.sent else "there already", file.sha256[:12])
        for file in told.files
    )
    left = "would be removed" if delivery.dry_run else "removed"
    notes = [f"{delivery.bytes_sent() / 1e6:.1f} MB {sent}, {len(delivery.there)} files there already"]
    if told.removed:
        notes.append(f"{left}, as an earlier publication's: {', '.join(told.removed)}")
    if told.revision:
        notes.append(f"{'head of the branch' if delivery.dry_run else 'commit'}: {told.revision}")
    if told.manifest_sha256:
        notes.append(f"manifest.json sha256: {told.manifest_sha256}")
    return Table(title=f"export {told.artifact_id} to {told.to}", columns=_COLUMNS, rows=rows, notes=tuple(notes))
