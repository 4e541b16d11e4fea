"""Whether a dataset card is true: its form, its Markdown, and every file of rows it names, by hash and by counting again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import yaml
from pydantic import ValidationError

from core import __version__
from core.contract import Finding, Severity
from core.data import rows_file
from core.data.card import FILE, README, Card, CardFile
from core.data.record import PromptRow
from core.errors import CardMismatch, PathEscapes, SourceMissing
from core.files import confine, sha256_of
from core.nouns import Dataset
from core.report import card_markdown

_MOST_BYTES = 64 << 20
_AGAIN = "Write the card again: edgekiln data card DATASET -o FOLDER"


def read_card(folder: Path) -> Card:
    """Read a folder's card; SourceMissing when there is none, CardMismatch when it is not what the published schema says."""
    path = folder / FILE
    if not path.is_file():
        raise SourceMissing(f"{folder} holds no {FILE}", remedy="Name a dataset, or a folder that `data card -o` wrote.")
    if path.stat().st_size > _MOST_BYTES:
        raise CardMismatch(f"{path} has > {_MOST_BYTES} bytes", remedy=_AGAIN)
    try:
        return Card.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CardMismatch(f"{path}: {place}: {first['msg']}", remedy=_AGAIN) from error


def check_card(folder: Path, card: Card) -> tuple[Finding, ...]:
    """Return what the card of a folder says wrongly, nothing when it is true."""
    sides: Counter[str] = Counter()
    found = [*_check_readme(folder, card), *_check_sums(card)]
    for file in card.files:
        found += _check_file(folder, file, sides)
    if not found and any(sides[side] != rows for side, rows in card.statistics.splits.items()):
        told = ", ".join(f"{rows} {side}" for side, rows in sorted(card.statistics.splits.items()))
        counted = ", ".join(f"{rows} {side}" for side, rows in sorted(sides.items())) or "no rows"
        found.append(_wrong(FILE, f"its files hold {counted}, the card says {told}", "rows changed sides"))
    return tuple(found)


def check_manifest(card: Card, dataset: Dataset) -> Iterator[Finding]:
    """Yield where the card of a dataset in the workspace differs from its manifest."""
    known = card.statistics
    sealed = {file.path: file.sha256 for file in dataset.files}
    pairs: tuple[tuple[str, object, object], ...] = (
        ("dataset", card.dataset, dataset.artifact_id),
        ("rows", known.rows, dataset.rows),
        ("train rows", known.splits.get("train"), dataset.train_rows),
        ("held-out rows", known.splits.get("held_out"), dataset.held_out_rows),
        ("rejected", known.rejected, dataset.rejected),
        ("sources", [source.sha256 for source in card.sources], [source.sha256 for source in dataset.sources]),
        *((file.path, file.sha256, sealed.get(file.path)) for file in card.files),
    )
    for name, told, manifest in pairs:
        if told != manifest:
            yield _wrong(FILE, f"{name} {told}, the manifest says {manifest}", "the card is of another dataset")


def _wrong(where: str, evidence: str, cause: str) -> Finding:
    return Finding(code="card", severity=Severity.ERROR, where=where, evidence=evidence, cause=cause, remedy=_AGAIN)


def _check_readme(folder: Path, card: Card) -> Iterator[Finding]:
    """Yield what README.md lacks; metadata and text of people's own beside the generated ones are left alone."""
    path = folder / README
    if not path.is_file():
        yield _wrong(README, "there is no such file", "the card for people is missing")
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    head, told = _front_matter(text), card_markdown.front_matter(card)
    wrong = [name for name in told if head.get(name) != told[name]]
    if wrong:
        shown = f"{wrong[0]}: {str(head.get(wrong[0]))[:80]}, card.json says {str(told[wrong[0]])[:80]}"
        yield _wrong(README, shown, "its front matter differs from card.json")
    if card.edgekiln == __version__ and card_markdown.body(card) not in text:  # another version may word it otherwise
        yield _wrong(README, "the text made from card.json is not in it", "it was edited, or card.json was")


def _front_matter(text: str) -> dict[str, object]:
    if not text.startswith("---\n"):
        return {}
    try:
        head = yaml.safe_load(text[4:].partition("\n---\n")[0])
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def _check_sums(card: Card) -> Iterator[Finding]:
    known = card.statistics
    rows, sides = sum(file.rows for file in card.files), sum(known.splits.values())
    if rows != known.rows:
        yield _wrong(FILE, f"its files have {rows} rows, its statistics {known.rows}", "the card contradicts itself")
    if sides != known.rows:
        yield _wrong(FILE, f"its splits have {sides} rows, its statistics {known.rows}", "the card contradicts itself")


def _check_file(folder: Path, file: CardFile, sides: Counter[str]) -> Iterator[Finding]:
    """Yield what is wrong with a file of rows; `sides` takes how many rows of each side are in it."""
    try:
        path = confine(folder, file.path)
    except PathEscapes as error:
        yield _wrong(file.path, error.problem, "a card names files of its own folder only")
        return
    if not path.is_file():
        yield _wrong(file.path, "there is no such file", "a file of rows is missing")
        return
    if (size := path.stat().st_size) != file.bytes:
        yield _wrong(file.path, f"{size} bytes, the card says {file.bytes}", "the file is not the one the card describes")
    elif (digest := sha256_of(path)) != file.sha256:
        yield _wrong(file.path, f"sha256 {digest[:12]}, the card says {file.sha256[:12]}", "the file's bytes are others")
    yield from _count_again(path, file, sides)


def _count_again(path: Path, file: CardFile, sides: Counter[str]) -> Iterator[Finding]:
    own: Counter[str] = Counter()
    try:
        for record in rows_file.read_rows(path):
            own[PromptRow.model_validate(record).split] += 1
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # ValidationError is a ValueError
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        yield _wrong(file.path, f"after {own.total()} rows: {reason}", "the file does not hold rows of a dataset")
        return
    sides.update(own)
    if own.total() != file.rows:
        yield _wrong(file.path, f"{own.total()} rows, the card says {file.rows}", "rows were added or taken out")
    if file.split and set(own) - {file.split}:
        yield _wrong(file.path, f"rows of {', '.join(sorted(own))} in a file of {file.split}", "sides are mixed")
