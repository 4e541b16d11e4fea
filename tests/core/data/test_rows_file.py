"""Rows in their file: everything comes back, the bytes do not depend on the batches, anybody's Parquet reader can read them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from core.data.record import PromptRow, read_prompts
from core.data.rows_file import FILE, RowsWriter, columns_of, write_rows
from core.files import sha256_of

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
CALL = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
ROWS = st.builds(
    PromptRow,
    row_id=TEXT,
    split=st.sampled_from(["train", "held_out"]),
    system=st.none() | TEXT,
    context=st.none() | TEXT,
    user=TEXT,
    requires_json=st.booleans(),
    tool_name=st.none() | TEXT,
    tool_schema=st.none() | st.dictionaries(TEXT, JSON, min_size=1, max_size=2),
    completion=st.none() | TEXT,
    extra=st.dictionaries(TEXT, JSON, max_size=3),
    history=st.sampled_from([(), ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})]),
    steps=st.sampled_from([(), ({"role": "assistant", "content": "", "tool_calls": [CALL]},)]),
    tools=st.sampled_from([(), ({"type": "function", "function": {"name": "f"}},)]),
    answer_tool_calls=st.sampled_from([(), (CALL,)]),
)


@settings(deadline=None)
@given(st.lists(ROWS, max_size=6))
def test_every_row_comes_back_as_it_was(rows: list[PromptRow]) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_rows(Path(name) / FILE, (row.model_dump(mode="json") for row in rows))

        assert list(read_prompts(Path(name))) == rows


def record(number: int) -> dict[str, Any]:
    return {"row_id": f"r{number}", "user": f"Question {number}?", "extra": {"tags": [number]}}


def test_the_bytes_are_the_same_in_whatever_batches_rows_came(tmp_path: Path) -> None:
    hashes = set()
    for size in (999, 10_000, 20_000):
        path = tmp_path / f"{size}.parquet"
        with RowsWriter(path) as writer:
            for start in range(0, 20_000, size):
                rows = [record(number) for number in range(start, min(start + size, 20_000))]
                writer.write(columns_of(rows), ["train"] * len(rows))
        hashes.add(sha256_of(path))
    assert len(hashes) == 1

    file = pq.ParquetFile(path)
    assert file.metadata.num_row_groups == 3
    assert file.metadata.row_group(0).num_rows == 8192
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    table = file.read()
    assert table.column_names[:3] == ["row_id", "split", "system"]
    assert table.column("user")[19_999].as_py() == "Question 19999?"
