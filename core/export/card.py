"""The model card as a record: what a model came from, what it was taught with, what every file of it is worth.

Every figure is from a manifest. How it is written for people is in core/report/model_card.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import ValidationError

from core import __version__
from core.catalogue import ModelCard as StudentCard
from core.config import LabelConfig
from core.contract import ArtifactId, Contract, Stage
from core.data.card import FILE as DATASET_CARD
from core.data.card import Card as DatasetCard
from core.errors import ArtifactError
from core.export.chat_format import ChatFormat
from core.export.section import CardTexts
from core.lineage import parent
from core.nouns import Adapter, AdapterFile, Dataset, LabeledDataset, Merge, ModelRef, Quantisation, RejectedQuantisation
from core.workspace import Workspace

SCHEMA_VERSION: Literal[1] = 1
FILE = "model_card.json"
README = "README.md"
_MAIN_LANGUAGE = 0.05  # of the rows whose language is sure


class Teaching(Contract):
    """What the student was taught with; losses on the held-out rows in nats per completion token."""

    teacher: ModelRef
    context_distillation: bool
    dataset: ArtifactId | None
    dataset_title: str | None
    dataset_licence: str | None
    languages: tuple[str, ...]
    train_rows: int
    held_out_rows: int
    adapter: ArtifactId
    base_held_out_loss: float
    held_out_loss: float
    merged_held_out_loss: float
    steps: int
    trained_tokens: int
    config: dict[str, Any]


class ModelCard(Contract):
    """What a model is. `base_repo` is the student's repository on the Hugging Face hub, None where it is from elsewhere."""

    schema_version: Literal[1] = SCHEMA_VERSION
    title: str
    about: str
    intended_use: str
    edgekiln: str
    student: ModelRef
    base_repo: str | None
    teaching: Teaching
    merge: Merge | None = None
    quantisations: tuple[Quantisation, ...]
    rejected: tuple[RejectedQuantisation, ...]
    adapter_file: AdapterFile | None = None
    chat: ChatFormat | None
    tools: dict[str, str]


def teaching(workspace: Workspace, adapter: Adapter, merged_held_out_loss: float) -> Teaching:
    """Read how an adapter came about; what is known of the dataset is left out where it is not in this workspace."""
    labeled = parent(workspace, adapter, LabeledDataset)
    known = _dataset_card(workspace, labeled)
    spoken = known.statistics.languages if known else {}
    total = sum(spoken.values())
    return Teaching(
        teacher=labeled.teacher,
        context_distillation=LabelConfig.model_validate(labeled.config).context_distillation,
        dataset=known.dataset if known else None,
        dataset_title=known.title if known else None,
        dataset_licence=known.licence if known else None,
        languages=tuple(sorted(code for code, rows in spoken.items() if rows >= _MAIN_LANGUAGE * total)),
        train_rows=labeled.train_rows,
        held_out_rows=labeled.held_out_rows,
        adapter=adapter.artifact_id,
        merged_held_out_loss=merged_held_out_loss,
        config=adapter.config,
        **adapter.model_dump(include={"base_held_out_loss", "held_out_loss", "steps", "trained_tokens"}),
    )


def _dataset_card(workspace: Workspace, labeled: LabeledDataset) -> DatasetCard | None:
    try:
        dataset = parent(workspace, labeled, Dataset)
        card = workspace.folder(Stage.DATA, dataset.artifact_id) / DATASET_CARD
        return DatasetCard.model_validate_json(card.read_bytes())
    except (ArtifactError, FileNotFoundError, ValidationError):
        return None


def model_card(
    texts: CardTexts,
    student: StudentCard,
    taught: Teaching,
    *,
    ref: ModelRef,
    merge: Merge,
    quantisations: Sequence[Quantisation],
    rejected: Sequence[RejectedQuantisation],
    adapter_file: AdapterFile | None,
    chat: ChatFormat | None,
    tools: dict[str, str],
) -> ModelCard:
    """Return the card of a model whose files have been judged."""
    return ModelCard(
        title=texts.title or f"{ref.name}, taught by {taught.teacher.name}",
        about=texts.about,
        intended_use=texts.intended_use,
        edgekiln=__version__,
        student=ref,
        base_repo=student.source.repo if student.source.kind == "hub" else None,
        teaching=taught,
        merge=merge,
        quantisations=tuple(quantisations),
        rejected=tuple(rejected),
        adapter_file=adapter_file,
        chat=chat,
        tools=tools,
    )
