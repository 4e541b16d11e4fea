"""The one page shell: a self-contained HTML page with text, tables and charts, readable in light and dark, no network."""

from __future__ import annotations

import json
from typing import Literal

from markupsafe import Markup

from core.contract import Contract
from core.report import charts
from core.report.charts import Chart
from core.report.render import render
from core.report.table import Table
from core.report.templating import fill


class Section(Contract):
    """A part of a page; `code` is something to copy, in `language`, `folded` something long that opens on a click."""

    heading: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    code: str = ""
    language: Literal["json", "sh", "text"] = "json"
    folded: str = ""


class Page(Contract):
    """A page; `lead` is its answer in one line, `facts` are names with values."""

    title: str
    lead: str
    tone: Literal["plain", "good", "bad"] = "plain"
    facts: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()


def page_html(page: Page) -> str:
    """Return a page as HTML; the chart bundle is in it once if it has a chart, and not at all if it has none."""
    specs = {chart.title: chart.spec for section in page.sections for chart in section.charts}
    return str(
        fill(
            "page.html",
            page=page,
            tables=[[_fragment(table) for table in section.tables] for section in page.sections],
            specs=_script_json(specs) if specs else "",
            bundle=Markup(charts.bundle()) if specs else "",  # noqa: S704 - vl-convert's own code
        )
    )


def _fragment(table: Table) -> Markup:
    return Markup(render(table, "html"))  # noqa: S704 - the renderer escapes every cell


def _script_json(value: object) -> Markup:
    """Return JSON that cannot end the script element it stands in."""
    text = json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)  # noqa: S704 - every character that HTML knows is escaped above
