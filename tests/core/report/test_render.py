from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.report.render import render
from core.report.table import Column, Table

CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())


def table_of(*cells: object, title: str = "T", notes: tuple[str, ...] = ()) -> Table:
    columns = tuple(Column(key=f"c{index}", title=f"C{index}") for index in range(len(cells)))
    return Table(title=title, columns=columns, rows=(cells,), notes=notes)  # type: ignore[arg-type]


def unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") else text


@given(st.lists(CELLS, min_size=1, max_size=5))
def test_json_gives_back_every_cell(cells: list[object]) -> None:
    row = json.loads(render(table_of(*cells), "json"))["rows"][0]
    assert list(row.values()) == cells
    assert [type(value) for value in row.values()] == [type(cell) for cell in cells]


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_csv_gives_back_every_text_and_no_cell_begins_a_formula(cells: list[str]) -> None:
    rows = list(csv.reader(io.StringIO(render(table_of(*cells), "csv"), newline="")))
    assert [unguarded(cell) for cell in rows[1]] == cells
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in rows[1])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_csv_keeps_every_digit_and_a_negative_number_stays_a_number(value: float) -> None:
    rows = list(csv.reader(io.StringIO(render(table_of(value), "csv"), newline=""), quoting=csv.QUOTE_NONNUMERIC))
    assert rows[1] == [value]


def test_a_title_longer_than_its_table_stays_on_one_line_where_there_is_room() -> None:
    title = "Card of a/folder/with/a/long/name/and/more/below/it/artifacts/data"

    assert render(table_of("a", title=title), "text").splitlines()[:2] == [title, "C0"]
    assert max(map(len, render(table_of("a", title=title), "text", width=40).splitlines())) <= 40


@given(st.text())
def test_html_never_holds_a_tag_from_a_cell_a_title_or_a_note(text: str) -> None:
    clean = render(table_of("x", title="x", notes=("x",)), "html")
    hostile = f"{text}<script>alert(1)</script><img src=x onerror=y>\"'"
    drawn = render(table_of(hostile, title=hostile, notes=(hostile,)), "html")
    assert "<script" not in drawn
    assert drawn.count("<") == clean.count("<")


@given(st.text())
def test_a_markdown_row_stays_one_line_with_its_cells(text: str) -> None:
    lines = render(table_of(text, "end"), "markdown").split("\n")
    row = lines[4]
    assert row.endswith("| end |")
    assert len(lines) == 6
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "<" not in row


@given(st.text(), st.integers(min_value=20, max_value=200))
def test_text_is_never_cut_and_never_drives_the_terminal(text: str, width: int) -> None:
    drawn = render(table_of(f"a{text}z", 1.5, title="\x1b[31mred"), "text", width=width)
    assert "\x1b" not in drawn
    assert "z" in drawn


def test_a_control_character_is_shown_as_its_escape() -> None:
    drawn = render(table_of("a\x1b[2Jb", "c\u202ed", title="\x07", notes=("\x9b",)), "text")
    for shown in ("a\\x1b[2Jb", "c\\u202ed", "\\x07", "\\x9b"):
        assert shown in drawn


def test_long_words_are_folded_whole_into_narrow_text() -> None:
    word = "abcdefghijklmnopqrstuvwxyz" * 4
    drawn = render(table_of(*[word] * 4), "text", width=60)
    assert all(len(line) <= 60 for line in drawn.splitlines())
    assert sum(drawn.count(letter) for letter in "qz") == 32


def models_table() -> Table:
    columns = (
        Column(key="name", title="name"),
        Column(key="parameters", title="parameters", short=True),
        Column(key="licence", title="licence", optional=True),
        Column(key="bytes", title="bytes"),
    )
    row = ("smollm2-135m-instruct", 134515008, "Llama 3.1 Community License", 123456789)
    return Table(title="Models", columns=columns, rows=(row,))


def test_a_narrow_text_leaves_optional_columns_out_and_breaks_no_number() -> None:
    wide, narrow, slip = (render(models_table(), "text", width=width) for width in (100, 46, 20))
    assert "Community" in wide
    assert "Community" not in narrow
    for drawn in (wide, narrow, slip):
        assert "123456789" in drawn
        assert "135 M" in drawn
    assert all(len(line) <= 46 for line in narrow.splitlines())
    assert "licence" in slip, "rows as lines of title and value leave nothing out"
    assert '"parameters": 134515008' in render(models_table(), "json")


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (999, "999"),
        (1000, "1.00 k"),
        (134515008, "135 M"),
        (8030261248, "8.03 B"),
        (999_999, "1.00 M"),
        (99_960_000, "100 M"),
        (10**13, "10000 B"),
    ],
)
def test_a_large_count_is_shown_with_three_digits(count: int, shown: str) -> None:
    columns = (Column(key="n", title="n", short=True),)
    assert shown in render(Table(title="T", columns=columns, rows=((count,),)), "text")


def test_what_nobody_knows_is_unknown_and_null_in_json() -> None:
    table = table_of(None)
    assert all("unknown" in render(table, kind) for kind in ("text", "csv", "markdown", "html"))
    assert json.loads(render(table, "json"))["rows"] == [{"c0": None}]


def test_units_stand_in_the_head_and_digits_in_the_cells() -> None:
    columns = (
        Column(key="v", title="speed", unit="tokens/s", digits=1, align="right"),
        Column(key="ok", title="ok"),
        Column(key="n", title="n"),
    )
    table = Table(title="S", columns=columns, rows=((12.345, True, 0.00004),))
    assert render(table, "markdown").splitlines()[2:5] == [
        "| speed \\[tokens/s\\] | ok | n |",
        "|---:|---|---|",
        "| 12.3 | yes | 4e-05 |",
    ]
    assert '"speed"' not in render(table, "csv")
    assert "12.345" in render(table, "csv")


@pytest.mark.parametrize("row", [(), (1, 2), (float("nan"),), (float("inf"),), ([],)])
def test_a_row_that_is_ragged_or_holds_no_finite_number_is_refused(row: tuple) -> None:
    with pytest.raises(ValidationError):
        Table(title="T", columns=(Column(key="a", title="A"),), rows=(row,))


def test_a_column_is_read_by_its_key() -> None:
    assert table_of(1, "x").column("c1") == ("x",)
    with pytest.raises(KeyError):
        table_of(1).column("c9")
