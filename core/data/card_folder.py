"""A dataset written to a folder as it is published: a file of rows for each side, the card for the hub, for programs, as a page."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.data import rows_file
from core.data.card import PAGE, Card, describe
from core.data.record import Split
from core.files import disk_full_is_an_error, write_atomic
from core.report.card import card_page
from core.report.card_markdown import write_card
from core.report.page import page_html

_SIDES: tuple[Split, ...] = get_args(Split)


def write_folder(rows: Path, folder: Path, card: Card) -> Card:
    """Write a dataset whose rows lie in one file to a folder and return its card; DiskFull when there is no space."""
    with disk_full_is_an_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _part(rows, folder)
        files = tuple(describe(folder, _file(side), card.statistics.splits.get(side, 0), side) for side in _SIDES)
        published = card.model_copy(update={"files": files})
        write_card(folder, published)
        write_atomic(folder / PAGE, page_html(card_page(published)).encode())
    return published


def _file(side: Split) -> str:
    return f"{side}.parquet"


def _part(rows: Path, folder: Path) -> None:
    with ExitStack() as stack:
        writers = {side: stack.enter_context(rows_file.RowsWriter(folder / _file(side))) for side in _SIDES}
        file = stack.enter_context(pq.ParquetFile(rows))
        for batch in file.iter_batches():
            whole = pa.record_batch([batch.column(0), *batch.columns[2:]], schema=rows_file.UNSPLIT)
            for side, writer in writers.items():
                part = whole.filter(pc.equal(batch.column(1), side))
                writer.write(part, [side] * len(part))
