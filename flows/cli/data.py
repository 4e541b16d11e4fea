"""`edgekiln data`: validate files, document the dataset, hold two versions side by side, review rows by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from flows.cli.session import Choice, Common, answer, drawn, tree
from flows.cli.stages import run_stage

if TYPE_CHECKING:
    from core.contract import Finding
    from core.data.card import Card
    from core.data.review import ReviewRow
    from core.nouns import Dataset
    from core.report.table import Table
    from core.workspace import Workspace

_DEFAULT_CHOICE = Choice()
_DEFAULT_COMMON = Common()
_NOT_OF_OTHER_FILES = ("data.title=''", "data.about=''", "data.licence=null")  # the profile's card tells of its own files

app = App(name="data")


@app.default
def _data(*files: str, choice: Choice = _DEFAULT_CHOICE, common: Common = _DEFAULT_COMMON) -> None:
    """Validate files of prompts, the profile's when none is named.

    Parameters
    ----------
    files
        Files of records, folders, globs, hf:owner/dataset, or builtin:python-docs
    """
    import json

    named = (f"data.sources={json.dumps(files)}", *_NOT_OF_OTHER_FILES) if files else ()
    run_stage("data", choice, common, extra=named)


@app.command
def card(
    what: str = "",
    *,
    check: Annotated[bool, Parameter(negative=())] = False,
    html: Annotated[bool, Parameter(negative=())] = False,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """Print the card of a dataset, write the dataset with its card to a folder, or check a card against its data.

    Parameters
    ----------
    what
        A dataset's id or its beginning, or a folder with a card; the newest dataset when nothing is named
    check
        Compare the card with its files: form, hashes, counts, splits
    html
        Print the page with plots instead
    output
        Folder to write to: README.md, card.json, card.html and the rows, as the Hugging Face hub reads them
    """
    from core.data.card_check import read_card
    from core.report.card import card_page
    from core.report.card_markdown import markdown
    from core.report.page import page_html

    folder, dataset = _place(what, common)
    told = read_card(folder)
    if check:
        return _check(folder, told, dataset, common)
    if output is not None:
        return _write(folder, told, output, common)
    return answer(common, told.model_dump(mode="json"), page_html(card_page(told)) if html else markdown(told).rstrip("\n"))


@app.command
def schema(*, output: Annotated[Path | None, Parameter(alias="-o")] = None) -> None:
    """Print the JSON Schema of a dataset card, or write it to a file.

    Parameters
    ----------
    output
        File to write
    """
    import json

    from core.data.card import json_schema
    from core.errors import UsageError
    from core.files import write_atomic

    text = json.dumps(json_schema(), indent=1, ensure_ascii=False)
    if output is None:
        print(text)
        return
    try:
        write_atomic(output, f"{text}\n".encode())
    except OSError as error:
        raise UsageError(f"-o {output}: {error.strerror}", remedy="Name a file you may write.") from error


@app.command
def diff(before: str, after: str, *, rows: int = 10, common: Common = _DEFAULT_COMMON) -> None:
    """Hold two versions of a dataset side by side: rows added, gone, changed, on another side; findings before and after.

    Parameters
    ----------
    before
        The older dataset: its id or its beginning, or a folder with a card
    after
        The newer one
    rows
        How many rows of each kind to list
    """
    from core.data.card_check import read_card
    from core.data.difference import difference
    from core.report.dataset import difference_tables

    old, new = _place(before, common)[0], _place(after, common)[0]
    found = difference((old, read_card(old)), (new, read_card(new)), max(rows, 0))
    answer(
        common, found.model_dump(mode="json"), "\n".join(drawn(table) for table in difference_tables(found)).rstrip("\n")
    )


@app.command
def review(
    what: str = "",
    *,
    take: Path | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    rows: int = 500,
    common: Common = _DEFAULT_COMMON,
) -> None:
    """List the rows to look at, or take in what was decided about them; the next `edgekiln data` heeds it.

    Parameters
    ----------
    what
        A dataset's id or its beginning; the newest dataset when nothing is named
    take
        The list as it was edited: `keep`, `drop`, `edited` or `forget` in its column decision, and other texts where edited
    output
        File to write the list to: .csv for a spreadsheet, or .jsonl
    rows
        How many rows to list
    """
    from core.data.decisions import read_decisions
    from core.data.review import review_list
    from core.report.dataset import review_table

    workspace = tree(common)
    dataset = _dataset(workspace, what)
    folder = workspace.folder(dataset.stage, dataset.artifact_id)
    if take is not None:
        return _take(take, folder, workspace, common)
    listed = review_list(folder, read_decisions(workspace.decisions), max(rows, 0))
    if output is None:
        return answer(common, [row.model_dump(mode="json") for row in listed], drawn(review_table(listed)).rstrip("\n"))
    return _write_list(output, listed, common)


def _write_list(output: Path, listed: list[ReviewRow], common: Common) -> None:
    from core.data.review_file import write_list
    from core.errors import UsageError

    try:
        write_list(output, listed)
    except OSError as error:
        raise UsageError(f"-o {output}: {error.strerror}", remedy="Name a file you may write.") from error
    told = f"{output}: {len(listed)} rows. Fill in the column decision, then: edgekiln data review --take {output}"
    answer(common, {"file": str(output), "rows": len(listed)}, told)


def _take(take: Path, folder: Path, workspace: Workspace, common: Common) -> None:
    from core.data import review as reviewing
    from core.data.decisions import read_decisions, write_decisions
    from core.data.review_file import read_list
    from core.workspace import locked

    entries = read_list(take)
    with locked(workspace, "edgekiln data review"):
        taken = reviewing.take(entries, folder, read_decisions(workspace.decisions))
        write_decisions(workspace.decisions, taken.decisions)
    counted = ", ".join(f"{count} {word}" for word, count in taken.counts.items()) or "no decision"
    told = f"{counted}; {len(taken.decisions)} decisions in {workspace.decisions}. Heed them: edgekiln data"
    answer(common, {"taken": taken.counts, "decisions": len(taken.decisions)}, told)


def _place(what: str, common: Common) -> tuple[Path, Dataset | None]:
    """Return the folder that holds a card, with the dataset unless it is a folder outside the workspace."""
    from core.data.card import FILE

    if what and (Path(what) / FILE).is_file():
        return Path(what), None
    workspace = tree(common)
    dataset = _dataset(workspace, what)
    return workspace.folder(dataset.stage, dataset.artifact_id), dataset


def _dataset(workspace: Workspace, what: str) -> Dataset:
    """Return a dataset by its id or its beginning, the newest for no name; its files are verified."""
    from core.contract import Stage
    from core.errors import ArtifactMissing
    from core.nouns import Dataset
    from core.trace import resolve
    from core.workspace import artifacts, verify

    made = [resolve(workspace, what)] if what else artifacts(workspace, Stage.DATA)
    found = made[-1] if made else None
    if not isinstance(found, Dataset):
        problem = f"{what} is no dataset" if found else f"no dataset in {workspace.root}"
        raise ArtifactMissing(problem, remedy="Name a dataset; make one with `edgekiln data FILE`.")
    verify(workspace, found)
    return found


def _check(folder: Path, told: Card, dataset: Dataset | None, common: Common) -> None:
    from core.data.card_check import check_card, check_manifest
    from core.errors import CardMismatch
    from core.report.render import as_document

    found = (*check_card(folder, told), *(check_manifest(told, dataset) if dataset else ()))
    table = _wrong(folder, told, found)
    answer(common, as_document(table), drawn(table).rstrip("\n"))
    if found:
        first = found[0]
        raise CardMismatch(f"{first.where}: {first.evidence}; {len(found)} differ > 0", remedy=first.remedy)


def _wrong(folder: Path, told: Card, found: tuple[Finding, ...]) -> Table:
    from core.report.table import Column, Table

    columns = tuple(Column(key=key, title=key) for key in ("where", "evidence", "cause"))
    true = () if found else (f"The card says what its data is: {told.statistics.rows} rows.",)
    rows = tuple((finding.where, finding.evidence, finding.cause) for finding in found)
    return Table(title=f"Card of {folder}", columns=columns, rows=rows, notes=true)


def _write(folder: Path, told: Card, output: Path, common: Common) -> None:
    from core.data import rows_file
    from core.data.card_folder import write_folder
    from core.errors import UsageError

    if len(told.files) != 1 or told.files[0].path != rows_file.FILE:
        raise UsageError(f"{folder} is published already", remedy="Name a dataset of the workspace.")
    try:
        published = write_folder(folder / rows_file.FILE, output, told)
    except OSError as error:
        raise UsageError(f"-o {output}: {error.strerror}", remedy="Name a folder you may write.") from error
    answer(
        common,
        published.model_dump(mode="json"),
        f"{output}: README.md, card.json, card.html, "
        + ", ".join(f"{file.path} ({file.rows} rows)" for file in published.files),
    )
