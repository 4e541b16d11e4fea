"""The dataset card as a record: what a dataset is, where it comes from, what was found in it; its schema is published.

Every number is from the statistics of the pass or from the manifest. How it is written for people is in core/report/card.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import Field

from core import __version__
from core.config import DataConfig
from core.contract import ArtifactId, Contract, Sha256
from core.data import docs, hub
from core.data.find import BUILTIN
from core.data.flaws import REMEDIES
from core.data.record import Split
from core.data.statistics import CorpusStatistics
from core.files import sha256_of
from core.nouns import SourceRef

SCHEMA_VERSION: Literal[1] = 1
FILE = "card.json"
README = "README.md"
PAGE = "card.html"

_SOURCES_IN_TITLE = 3


class CardFile(Contract):
    """A file of rows; `split` is None where rows of both sides are in it."""

    path: str
    split: Split | None
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: Sha256


class Card(Contract):
    """What a dataset is. `remedies` says what to do about each rule that found something, `config` what shaped the rows."""

    schema_version: Literal[1] = SCHEMA_VERSION
    title: str
    about: str
    licence: str | None
    dataset: ArtifactId
    edgekiln: str
    sources: tuple[SourceRef, ...]
    files: tuple[CardFile, ...]
    statistics: CorpusStatistics
    remedies: dict[str, str]
    config: dict[str, Any]


def card_of(
    config: DataConfig,
    *,
    artifact_id: str,
    sources: Sequence[SourceRef],
    files: Sequence[CardFile],
    statistics: CorpusStatistics,
    remedies: dict[str, str] | None = None,
) -> Card:
    """Return the card of a dataset; `remedies` are those of rules that are not edgekiln's own. Folders of sources are left out."""
    known = {**(remedies or {}), **REMEDIES}
    own = bool(sources) and all(source.name.startswith(docs.NAME) for source in sources)
    told = tuple(source.model_copy(update={"name": shown_name(source.name)}) for source in sources)
    return Card(
        title=config.title or (docs.TITLE if own else _title(told)),
        about=config.about or (docs.ABOUT if own else ""),
        licence=config.licence or (docs.LICENCE if own else None),
        dataset=artifact_id,
        edgekiln=__version__,
        sources=told,
        files=tuple(files),
        statistics=statistics,
        remedies={rule.code: known[rule.code] for rule in statistics.findings if rule.code in known},
        config=config.shaping(),
    )


def describe(folder: Path, path: str, rows: int, split: Split | None = None) -> CardFile:
    """Return the card's entry of a file that lies in a folder."""
    file = folder / path
    return CardFile(path=path, split=split, rows=rows, bytes=file.stat().st_size, sha256=sha256_of(file))


def shown_name(name: str) -> str:
    """Return a source's name without the folders of the machine it was read on."""
    return name if name.startswith((BUILTIN, hub.PREFIX)) else PurePath(name).name


def _title(sources: Sequence[SourceRef]) -> str:
    names = [source.name for source in sources]
    shown = names if len(names) <= _SOURCES_IN_TITLE else [*names[: _SOURCES_IN_TITLE - 1], f"{len(names) - 2} more"]
    return " and ".join([*([", ".join(shown[:-1])] if shown[1:] else []), *shown[-1:]]) or "empty dataset"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the card."""
    return Card.model_json_schema(mode="serialization")
