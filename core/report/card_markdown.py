"""The dataset card as the Hugging Face hub reads it: front matter in YAML, then Markdown. Nothing from a row can break either."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from core.data.card import FILE, README, Card
from core.files import write_atomic
from core.report.card import lead, main_languages, sections
from core.report.page import Section
from core.report.render import markdown_line, render

# The identifiers the hub knows: https://huggingface.co/docs/hub/repositories-licenses
_HUB_LICENCES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl
gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql
ofl-1.1 ncsa unlicense zlib pddl lgpl-lr unknown other
"""
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
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9.]+")
_HEAD = "---\n"


def write_card(folder: Path, card: Card) -> None:
    """Write `README.md` and `card.json` into a folder."""
    write_atomic(folder / FILE, card.model_dump_json(indent=1).encode())
    write_atomic(folder / README, markdown(card).encode())


def markdown(card: Card) -> str:
    """Return the card as the hub reads it."""
    head = yaml.safe_dump(front_matter(card), sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"{_HEAD}{head}{_HEAD}\n{body(card)}"


def front_matter(card: Card) -> dict[str, Any]:
    """Return the metadata at the head of the card, by the hub's names."""
    known = card.statistics
    languages = sorted(main_languages(known.languages))
    return {
        "pretty_name": _one_line(card.title),
        **_licence(card.licence),
        **({"language": languages} if languages else {}),
        "size_categories": [next((size for most, size in _SIZES if known.rows < most), "1B<n<10B")],
        "task_categories": ["text-generation"],
        "tags": ["edgekiln", *(["function-calling"] if known.tools.rows_offering else [])],
        "configs": [{"config_name": "default", "data_files": _data_files(card)}],
    }


def _licence(licence: str | None) -> dict[str, str]:
    """Return the licence's identifier where the hub knows it, else `other` with its name."""
    if not licence:
        return {"license": "unknown"}
    name = _NOT_IN_A_NAME.sub("-", licence.casefold()).strip("-")
    return {"license": name} if name in _HUB_LICENCES.split() else {"license": "other", "license_name": name or "other"}


def _data_files(card: Card) -> list[dict[str, Any]]:
    paths: dict[str, list[str]] = {}
    for file in card.files:
        paths.setdefault(file.split or "rows", []).append(_one_line(file.path))
    return [{"split": split, "path": named if len(named) > 1 else named[0]} for split, named in paths.items()]


def body(card: Card) -> str:
    """Return the card without its front matter."""
    parts = [f"# {markdown_line(card.title)}", markdown_line(lead(card)), *map(_section, sections(card, drawn=False))]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _section(section: Section) -> str:
    lines = [markdown_line(line) for line in section.text if line.strip()]
    tables = [render(table, "markdown").rstrip("\n") for table in section.tables]
    code = [f"```json\n{section.code}\n```"] if section.code else []
    return "\n\n".join([f"## {markdown_line(section.heading)}", *lines, *tables, *code])


def _one_line(text: str) -> str:
    return " ".join(text.split())
