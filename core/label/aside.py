"""The rows that the newest labelling set aside, and letting them be asked again."""

from __future__ import annotations

from collections.abc import Iterator

from core.config import LabelConfig
from core.contract import Stage
from core.data.record import Reject
from core.errors import UsageError
from core.files import read_json_lines
from core.label.ledger import existing_ledger
from core.label.outcome import follow
from core.label.questions import questions_of
from core.lineage import parent
from core.nouns import Dataset, LabeledDataset
from core.workspace import Workspace, artifacts


def newest(workspace: Workspace) -> LabeledDataset | None:
    """Return the labelling that was published last, None without one."""
    found = [artifact for artifact in artifacts(workspace, Stage.LABEL) if isinstance(artifact, LabeledDataset)]
    return max(found, key=lambda artifact: artifact.created_at, default=None)


def newest_aside(workspace: Workspace) -> Iterator[Reject]:
    """Yield the rows the newest labelling set aside, none where there is no labelling."""
    if (labeled := newest(workspace)) is None:
        return iter(())
    path = workspace.folder(Stage.LABEL, labeled.artifact_id) / "unanswered.jsonl"
    return map(Reject.model_validate, read_json_lines(path))


def discard_aside(workspace: Workspace, code: str) -> int:
    """Let the answers be asked again for which rows of the newest labelling were set aside with a code; return how many.

    UsageError when no row has that code.
    """
    labeled = newest(workspace)
    rows = {reject.where for reject in newest_aside(workspace) if reject.code == code}
    if labeled is None or not rows:
        raise UsageError(
            f"the newest labelling set no row aside with the code {code!r}",
            remedy="Look at the codes: edgekiln label failed",
        )
    with existing_ledger(workspace.ledger("label")) as ledger:
        keys: list[str] = []
        dataset, config = parent(workspace, labeled, Dataset), LabelConfig.model_validate(labeled.config)
        for question in questions_of(dataset, config, labeled.tools["teacher"], workspace):
            if question.row.row_id in rows:
                for first in question.requests:
                    keys += [first.key, follow(first, ledger).answered_by or ""]
        return ledger.discard(list(dict.fromkeys(keys)))
