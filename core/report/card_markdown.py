"""The dataset card as the Hugging Face hub reads it: front matter in YAML, then Markdown. Nothing from a row can break either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.data.card import FILE, README, Card
from core.files import write_atomic
from core.report.card import lead, main_languages, sections
from core.report.hub_markdown import hub_body, hub_licence, hub_page, one_line

# https://huggingface.co/docs/hub/datasets-cards
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
)


def write_card(folder: Path, card: Card) -> None:
    """Write `README.md` and `card.json` into a folder."""
    write_atomic(folder / FILE, card.model_dump_json(indent=1).encode())
    write_atomic(folder / README, markdown(card).encode())


def markdown(card: Card) -> str:
    """Return the card as the hub reads it."""
    return hub_page(front_matter(card), card.title, lead(card), sections(card, drawn=False))


def body(card: Card) -> str:
    """Return the card without its front matter."""
    return hub_body(card.title, lead(card), sections(card, drawn=False))


def front_matter(card: Card) -> dict[str, Any]:
    """Return the metadata at the head of the card, by the hub's names."""
    known = card.statistics
    languages = sorted(main_languages(known.languages))
    return {
        "pretty_name": one_line(card.title),
        **hub_licence(card.licence),
        **({"language": languages} if languages else {}),
        "size_categories": [next((size for most, size in _SIZES if known.rows < most), "1B<n<10B")],
        "task_categories": ["text-generation"],
        "tags": ["edgekiln", *(["function-calling"] if known.tools.rows_offering else [])],
        "configs": [{"config_name": "default", "data_files": _data_files(card)}],
    }


def _data_files(card: Card) -> list[dict[str, Any]]:
    paths: dict[str, list[str]] = {}
    for file in card.files:
        paths.setdefault(file.split or "rows", []).append(one_line(file.path))
    return [{"split": split, "path": named if len(named) > 1 else named[0]} for split, named in paths.items()]
