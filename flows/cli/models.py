"""`edgekiln models`: what this workspace has produced; the models others made, that it can start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from flows.cli.session import Common, answer, answer_table, drawn, named_path, shelf, write_named

if TYPE_CHECKING:
    from core.catalogue import ModelCard

_DEFAULT_COMMON = Common()

app = App(name="models")


@app.default
def _models(
    artifact: str | None = None,
    *,
    html: Annotated[Path | None, Parameter(converter=named_path)] = None,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """List the models this workspace has produced, what each is worth, which is current, where each was published.

    Parameters
    ----------
    artifact
        The id of one, or its beginning: show its files, speeds, ancestry and publications
    html
        Also write the catalogue as a page that needs no network
    """
    from core.produced import find, produced
    from core.report.page import page_html
    from core.report.produced import files_table, model_tables, models_table, produced_page

    workspace = shelf(common)
    found = [find(workspace, artifact)] if artifact is not None else produced(workspace)
    if html is not None:
        write_named(html, page_html(produced_page(found)), "--html")
    tables = (
        model_tables(found[0]) if artifact is not None else (models_table(found), *([files_table(found)] if found else []))
    )
    document = [one.model_dump(mode="json") for one in found]
    answer(common, document, "\n".join(drawn(table) for table in tables).rstrip("\n"))


@app.command
def known(*, common: Common = _DEFAULT_COMMON) -> None:
    """List the teachers and students that are known: shipped, and your own cards."""
    from core.report.table import Column, Table

    cards, mistakes = known_cards()
    rows = tuple(
        (
            card.name,
            ", ".join(card.roles),
            card.parameters,
            card.memory_mib,
            card.licence,
            card.hidden_size,
            card.source.kind,
        )
        for card in cards
    )
    columns = (
        Column(key="name", title="name"),
        Column(key="roles", title="roles"),
        Column(key="parameters", title="size", short=True),
        Column(key="memory_mib", title="memory MiB"),
        Column(key="licence", title="licence", optional=True),
        Column(key="hidden_size", title="hidden size", optional=True),
        Column(key="source", title="source"),
    )
    answer_table(common, Table(title="Known teachers and students", columns=columns, rows=rows, notes=tuple(mistakes)))


def known_cards() -> tuple[list[ModelCard], list[str]]:
    """Return the models whose cards can be read, and what is wrong with the others."""
    from core import catalogue
    from core.errors import BadConfig

    cards, mistakes = [], []
    for name in catalogue.names("models"):
        try:
            cards.append(catalogue.model(name))
        except BadConfig as error:
            mistakes.append(f"left out: {error.problem}. {error.remedy}")
    return cards, mistakes
