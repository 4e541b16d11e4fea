"""Cards as the Hugging Face hub reads them: front matter in YAML, then sections in Markdown. No value can break either."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

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
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9.]+")
_BACKTICKS = re.compile(r"`+")
_HEAD = "---\n"


def hub_page(front_matter: Mapping[str, Any], title: str, lead: str, sections: Iterable[Section]) -> str:
    """Return a card: its metadata by the hub's names, its title, what it is in one line, its sections without charts."""
    head = yaml.safe_dump(dict(front_matter), sort_keys=False, allow_unicode=True, width=1 << 20)
    return f"{_HEAD}{head}{_HEAD}\n{hub_body(title, lead, sections)}"


def hub_body(title: str, lead: str, sections: Iterable[Section]) -> str:
    """Return a card without its front matter."""
    parts = [f"# {markdown_line(title)}", markdown_line(lead), *map(_section, sections)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def hub_licence(licence: str | None) -> dict[str, str]:
    """Return the licence's identifier where the hub knows it, else `other` with its name."""
    if not licence:
        return {"license": "unknown"}
    name = _NOT_IN_A_NAME.sub("-", licence.casefold()).strip("-")
    return {"license": name} if name in _HUB_LICENCES.split() else {"license": "other", "license_name": name or "other"}


def one_line(text: str) -> str:
    """Return a text with every run of white space as one space."""
    return " ".join(text.split())


def _section(section: Section) -> str:
    lines = [markdown_line(line) for line in section.text if line.strip()]
    tables = [render(table, "markdown").rstrip("\n") for table in section.tables]
    code = [_fenced(section.code, section.language)] if section.code else []
    return "\n\n".join([f"## {markdown_line(section.heading)}", *lines, *tables, *code])


def _fenced(code: str, language: str) -> str:
    longest = max((len(run) for run in _BACKTICKS.findall(code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
