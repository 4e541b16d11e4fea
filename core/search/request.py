"""What the search and its trial processes tell each other."""

from __future__ import annotations

from core.contract import Contract
from core.nouns import LabeledDataset
from core.search.section import SearchConfig
from core.train.section import TrainConfig


class TrialsRequest(Contract):
    """`study` is the search's own folder; `workspace` holds the labels, `beside` the cards of the profile."""

    study: str
    workspace: str
    labeled: LabeledDataset
    search: SearchConfig
    train: TrainConfig
    beside: str | None


class TrialsDone(Contract):
    """How many trials a process ended."""

    ended: int
