"""Parquet: wrong types are flaws of their rows, what JSON has no type for is written out, damage is told."""

from __future__ import annotations

import datetime as dt
import decimal
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from core.data.flaws import REMEDIES, Flaw
from core.data.formats.parquet import _batch_rows
from core.data.readers import open_sources, read_lines
from core.data.shapes import draft_of
from core.errors import DataError, SourceEmpty


def records_of(path: Path, table: pa.Table, **options: Any) -> list[dict[str, Any] | Flaw]:
    parquet.write_table(table, path, **options)
    (source,) = open_sources([str(path)], 8)
    found = [line.record for line in read_lines(source, 8000)]
    assert all(record.code in REMEDIES for record in found if isinstance(record, Flaw))
    return found


def code_of(record: dict[str, Any] | Flaw) -> str | None:
    found = record if isinstance(record, Flaw) else draft_of(record, "auto")
    return found.code if isinstance(found, Flaw) else None


@pytest.mark.parametrize(
    ("column", "code"),
    [
        (pa.array([1, 2]), "field-wrong-type"),
        (pa.array([b"a", b"\xff"]), "field-wrong-type"),
        (pa.array([["a"], []]), "field-wrong-type"),
        (pa.array([{"a": 1}, {"a": 2}]), "field-wrong-type"),
        (pa.array([float("nan"), float("inf")]), "json-not-finite"),
        (pa.array([True, False]), "field-wrong-type"),
        (pa.array(["Salut?", "Bonjour?"]).dictionary_encode(), None),
        (pa.array(["Salut?", "Bonjour?"], pa.large_string()), None),
    ],
)
def test_a_column_of_a_wrong_type_is_a_flaw_of_each_row(tmp_path: Path, column: pa.Array, code: str | None) -> None:
    found = records_of(tmp_path / "a.parquet", pa.table({"user": column}))

    assert [code_of(record) for record in found] == [code, code]


def test_a_text_that_is_not_utf8_spoils_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"b\xe9d", b"also good"]).cast(pa.binary()).view(pa.string())

    found = records_of(tmp_path / "a.parquet", pa.table({"user": texts}))

    assert [code_of(record) for record in found] == [None, "field-not-utf8", None]
    assert isinstance(found[1], Flaw)
    assert (found[1].field, found[1].reason) == ("user", "user is not UTF-8 at byte 2")


def test_what_json_has_no_type_for_is_written_out(tmp_path: Path) -> None:
    moment = dt.datetime(2025, 3, 1, 12, 30, tzinfo=dt.UTC)
    table = pa.table(
        {
            "user": ["a"],
            "at": [moment],
            "day": [moment.date()],
            "price": [decimal.Decimal("1.50")],
            "took": [dt.timedelta(seconds=90)],
            "score": [0.5],
            "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())),
        }
    )

    (found,) = records_of(tmp_path / "a.parquet", table)

    assert found == {
        "user": "a",
        "at": "2025-03-01T12:30:00+00:00",
        "day": "2025-03-01",
        "price": "1.50",
        "took": "0:01:30",
        "score": 0.5,
        "map": {"k": 1},
    }


def test_fields_that_only_other_rows_have_are_left_out(tmp_path: Path) -> None:
    call = {"function": {"name": "weather", "arguments": "{}"}}
    rows = [
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [call]}]},
        {"messages": [{"role": "user", "content": "b", "tool_calls": None}]},
    ]

    found = records_of(tmp_path / "a.parquet", pa.Table.from_pylist(rows))

    assert found[1] == {"messages": [{"role": "user", "content": "b"}]}
    assert [code_of(record) for record in found] == [None, None]


def test_two_columns_of_one_name_and_keys_that_repeat_are_flaws(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["user", "user"])
    keys = pa.table({"user": ["a"], "map": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))})
    deep: Any = "leaf"
    for _ in range(70):
        deep = {"a": deep}

    assert [code_of(record) for record in records_of(tmp_path / "a.parquet", twice)] == ["header-duplicate"]
    assert [code_of(record) for record in records_of(tmp_path / "b.parquet", keys)] == ["field-wrong-type"]
    found = records_of(tmp_path / "c.parquet", pa.table({"user": ["a"], "deep": pa.array([deep])}))
    assert [code_of(record) for record in found] == ["json-too-deep"]
    for _ in range(70):
        deep = {"a": deep}
    with pytest.raises(DataError, match="too deeply nested"):
        records_of(tmp_path / "d.parquet", pa.table({"user": ["a"], "deep": pa.array([deep])}))


def test_a_row_that_is_too_long_is_set_aside(tmp_path: Path) -> None:
    found = records_of(tmp_path / "a.parquet", pa.table({"user": ["a", "x" * (2 << 20), "b"]}))

    assert [code_of(record) for record in found] == [None, "line-too-long", None]


def test_large_rows_come_in_small_batches(tmp_path: Path) -> None:
    for size, rows in ((10, 256), (100_000, 83)):
        table = pa.table({"user": [chr(97 + n % 26) * size + str(n) for n in range(200)]})
        parquet.write_table(table, tmp_path / "a.parquet", use_dictionary=False, compression="none")
        assert _batch_rows(parquet.read_metadata(tmp_path / "a.parquet")) == rows


def test_a_parquet_file_without_rows_is_empty(tmp_path: Path) -> None:
    with pytest.raises(SourceEmpty, match="0 records"):
        records_of(tmp_path / "a.parquet", pa.table({"user": pa.array([], pa.string())}))


@pytest.mark.parametrize("keep", [4, 0.5, -4])
def test_a_parquet_file_that_was_cut_off_is_refused(tmp_path: Path, keep: float) -> None:
    records_of(tmp_path / "a.parquet", pa.table({"user": [f"Question {n}?" for n in range(1000)]}))
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])

    with pytest.raises(DataError, match="breaks off as Parquet, after 0 records"):
        open_sources([str(tmp_path / "a.parquet")], 8)


def test_a_damaged_page_names_the_rows_read_before_it(tmp_path: Path) -> None:
    table = pa.table({"user": [f"Question {n}?" for n in range(5000)]})
    records_of(tmp_path / "a.parquet", table, row_group_size=1000, compression="zstd")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    place = parquet.read_metadata(tmp_path / "a.parquet").row_group(3).column(0).data_page_offset
    data[place : place + 200] = bytes(200)
    (tmp_path / "a.parquet").write_bytes(data)
    (source,) = open_sources([str(tmp_path / "a.parquet")], 8)

    with pytest.raises(DataError, match=r"breaks off as Parquet, after \d+ records"):
        list(read_lines(source, 8000))


def test_a_text_named_by_a_thousand_rows_is_not_written_out_a_thousand_times(tmp_path: Path) -> None:
    names = pa.DictionaryArray.from_arrays(pa.array([0] * 300 + [1], pa.int32()), ["x" * 5_000_000, "y" * 50_000])
    every = pa.array(range(302), pa.int32())
    one_row = pa.array([0, *([300] * 300), 301], pa.int32())
    columns = {
        "text": (names, 300),
        "map": (pa.MapArray.from_arrays(every, pa.array(["k"] * 301), names), 300),
        "struct": (pa.StructArray.from_arrays([names], ["a"]), 300),
        "list": (pa.ListArray.from_arrays(one_row, names), 1),
    }
    for kind, (column, bad) in columns.items():
        path = tmp_path / f"{kind}.parquet"
        table = pa.table({"user": ["a"] * 301, "big": column})
        parquet.write_table(table, path, compression="zstd", store_schema=False)
        assert path.stat().st_size < 5_000
        (source,) = open_sources([str(path)], 8)
        tracemalloc.start()

        codes = [code_of(line.record) for line in read_lines(source, 8000)]

        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert codes == ["line-too-long"] * bad + [None] * (301 - bad), kind
        assert peak < 8 << 20
