"""The labelled rows that trials learn from: all, or a subset of the training rows that stays the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile

from core.contract import Artifact, Stage
from core.errors import BadConfig
from core.events import ignore
from core.files import read_json_lines, write_json_lines
from core.label.section import LabelConfig
from core.nouns import LabeledDataset, refs
from core.search.section import SearchConfig
from core.stage import Facts, Order, produce
from core.train.teacher import FILE as LOGPROBS
from core.workspace import Workspace

VERSION = 1


def check_rows(labeled: LabeledDataset, config: SearchConfig) -> None:
    """Raise BadConfig for a subset that is larger than the whole."""
    if config.subset_rows is not None and config.subset_rows > labeled.train_rows:
        raise BadConfig(
            f"search.subset_rows={config.subset_rows} > {labeled.train_rows} training rows of label {labeled.artifact_id}",
            remedy="Lower it, or set search.subset_rows=null to take all rows.",
        )


def rows_for_trials(labeled: LabeledDataset, config: SearchConfig, source: Workspace, target: Workspace) -> LabeledDataset:
    """Put the rows of trials into a workspace of their own; the held-out rows are all there."""
    wanted = config.subset_rows
    folder = source.folder(Stage.LABEL, labeled.artifact_id)
    order = Order(
        noun=LabeledDataset,
        stage=Stage.LABEL,
        version=VERSION,
        config=LabelConfig.model_validate(labeled.config),
        parents=refs(labeled),
        inputs=(f"rows {wanted}",),
    )

    def work(content: Path) -> Facts:
        kept = write_json_lines(content / "train.jsonl", chosen(folder / "train.jsonl", wanted))
        copyfile(folder / "held_out.jsonl", content / "held_out.jsonl")
        if (folder / LOGPROBS).is_file():
            copyfile(folder / LOGPROBS, content / LOGPROBS)
        own = {name: getattr(labeled, name) for name in LabeledDataset.model_fields.keys() - Artifact.model_fields.keys()}
        return Facts(own={**own, "train_rows": kept})

    return produce(order, target, ignore, work)


def chosen(path: Path, wanted: int | None) -> Iterator[dict[str, object]]:
    """Yield rows of a file in their order; of a subset those whose ids have the lowest hashes, so that a larger one holds it."""
    if wanted is None:
        yield from read_json_lines(path)
        return
    kept = set(sorted(_place(row["row_id"]) for row in read_json_lines(path))[:wanted])
    yield from (row for row in read_json_lines(path) if _place(row["row_id"]) in kept)


def _place(row_id: str) -> str:
    return hashlib.sha256(row_id.encode()).hexdigest()
