"""CSV and TSV: header, cells, ragged rows, and quotes that are never closed."""

from __future__ import annotations

import csv
import gzip
import io
import time
from pathlib import Path
from typing import Any

import pytest

from core.data.flaws import REMEDIES, Flaw
from core.data.readers import Line, open_sources, read_lines
from core.errors import DataError, NotUtf8


def lines_of(path: Path, data: str | bytes) -> list[Line]:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    found = [line for source in open_sources([str(path)], 8) for line in read_lines(source, 8000)]
    assert all(line.record.code in REMEDIES for line in found if isinstance(line.record, Flaw))
    return found


def told(lines: list[Line]) -> list[tuple[int, Any]]:
    return [
        (int(line.where.rpartition(":")[2]), line.record.code if isinstance(line.record, Flaw) else line.record)
        for line in lines
    ]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("comma", [",", ";", "\t"])
def test_a_table_is_read_whatever_its_separator_line_ends_and_mark(tmp_path: Path, mark: str, end: str, comma: str) -> None:
    rows = [["prompt", "completion"], ["Salut?", ""], [], ['"a"",\n;\tb"', "c"], ["last", "d"]]

    found = lines_of(tmp_path / "a.csv", mark + end.join(comma.join(row) for row in rows))

    assert told(found) == [
        (2, {"prompt": "Salut?", "completion": None}),
        (4, {"prompt": 'a",\n;\tb', "completion": "c"}),
        (6, {"prompt": "last", "completion": "d"}),
    ]


@pytest.mark.parametrize("comma", [", ", "; ", "| ", "|"])
def test_bars_and_spaces_around_separators_are_read(tmp_path: Path, comma: str) -> None:
    rows = [["prompt", "completion"], ['"a; b, c | d"', '"e"'], ["f", "g"]]

    found = lines_of(tmp_path / "a.csv", "".join(comma.join(row) + "\n" for row in rows))

    assert [record for _, record in told(found)] == [
        {"prompt": "a; b, c | d", "completion": "e"},
        {"prompt": "f", "completion": "g"},
    ]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [";", ",", "|", "\t", "^"])
def test_excels_line_that_names_the_separator_is_no_header(tmp_path: Path, mark: str, separator: str) -> None:
    text = f"{mark}sep={separator}\r\nprompt{separator}completion\r\na b{separator}c d\r\n"

    found = lines_of(tmp_path / "a.csv", text)

    assert told(found) == [(3, {"prompt": "a b", "completion": "c d"})]


def test_a_space_behind_a_separator_stays_where_the_header_has_none(tmp_path: Path) -> None:
    assert told(lines_of(tmp_path / "a.csv", "prompt,completion\na, b\n")) == [(2, {"prompt": "a", "completion": " b"})]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (",".join(f"column{number}" for number in range(200_000)) + "\na,b\n", r"the row has > \d+ bytes"),
        ('"prompt,completion\na,b\n', "no CSV: unexpected end of data; lines 1 to 2 are set aside"),
        ("prompt,completion\ra,b\rc,d\r", "no CSV: a carriage return stands alone outside of quotes"),
    ],
)
def test_a_header_that_cannot_be_read_is_an_error_and_no_row_takes_its_place(tmp_path: Path, data: str, why: str) -> None:
    with pytest.raises(DataError, match=rf"a\.csv:1: the table's header cannot be read: {why}"):
        lines_of(tmp_path / "a.csv", data)


def test_a_row_with_more_or_fewer_cells_than_the_header_is_set_aside(tmp_path: Path) -> None:
    found = lines_of(tmp_path / "a.csv", "prompt,completion\na,b\na\na,b,c\nd,e\n")

    assert told(found)[1:3] == [(3, "row-ragged"), (4, "row-ragged")]
    assert isinstance(found[2].record, Flaw)
    assert found[2].record.reason == "the row has 3 cells, the header 2"
    assert [line.where[-1] for line in found] == ["2", "3", "4", "5"]


def test_a_header_that_names_a_column_twice_sets_every_row_aside(tmp_path: Path) -> None:
    found = lines_of(tmp_path / "a.csv", "prompt, prompt\na,b\nc,d\n")

    assert told(found) == [(2, "header-duplicate"), (3, "header-duplicate")]


def test_a_quote_that_is_never_closed_takes_no_more_than_a_record_may_have(tmp_path: Path) -> None:
    rows = "".join(f"question {n},answer\n" for n in range(100_000))

    found = lines_of(tmp_path / "a.csv", f'prompt,completion\na,b\n"never closed,b\n{rows}')

    assert [type(line.record) for line in found[:3]] == [dict, Flaw, dict]
    assert isinstance(found[1].record, Flaw)
    assert (found[1].where[-2:], found[1].record.code) == (":3", "line-too-long")
    last = int(found[1].record.reason.partition(" to ")[2].split()[0])
    assert found[2].where.endswith(f":{last + 1}")
    assert found[2].record == {"prompt": f"question {last - 3}", "completion": "answer"}


def test_a_quote_open_at_the_end_of_the_file_is_a_flaw(tmp_path: Path) -> None:
    found = lines_of(tmp_path / "a.csv", 'prompt\na\n"b\nc\n')

    assert told(found) == [(2, {"prompt": "a"}), (3, "csv-broken")]
    assert isinstance(found[1].record, Flaw)
    assert found[1].record.reason == "no CSV: unexpected end of data; lines 3 to 4 are set aside"


def test_a_broken_row_does_not_touch_the_next(tmp_path: Path) -> None:
    found = lines_of(tmp_path / "a.csv", 'prompt\n"a"b\nc\nd\re\nf\n')

    assert told(found) == [(2, "csv-broken"), (3, {"prompt": "c"}), (4, "csv-broken"), (5, {"prompt": "f"})]


def test_a_million_quotes_that_multiply_stay_small(tmp_path: Path) -> None:
    bomb = gzip.compress(b"prompt\n" + (b'"' + b'""' * 400_000 + b"\n") * 60)

    found = lines_of(tmp_path / "a.csv.gz", bomb)

    assert {line.record.code for line in found if isinstance(line.record, Flaw)} == {"line-too-long"}
    assert all(isinstance(line.record, Flaw) for line in found)


@pytest.mark.parametrize("bait", ['"\n', '"a\n', '""\n', '"",\n', "a\n", '"a"\n"'])
def test_hostile_quotes_cost_linear_time(tmp_path: Path, bait: str) -> None:
    def cost_s(times: int) -> float:
        started = time.process_time()
        lines_of(tmp_path / "a.csv", "prompt\n" + bait * times)
        return time.process_time() - started

    small, large = min(cost_s(4_000) for _ in range(2)), min(cost_s(16_000) for _ in range(2))
    assert large < 10 * small + 0.1


def test_columns_of_structure_are_read_from_their_json(tmp_path: Path) -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t")
    table.writerow(["messages", "tool_schema", "requires_json", "tags"])
    table.writerow(['[{"role": "user"}]', "{}", "True", "[1]"])
    table.writerow(['[{"role": "user"}', "", "maybe", ""])
    table.writerow(["", '{"a": 1, "a": 2}', "", ""])

    found = lines_of(tmp_path / "a.tsv", text.getvalue())

    assert found[0].record == {"messages": [{"role": "user"}], "tool_schema": {}, "requires_json": True, "tags": "[1]"}
    assert [(line.record.code, line.record.field) for line in found[1:] if isinstance(line.record, Flaw)] == [
        ("json-broken", "messages"),
        ("json-duplicate-key", "tool_schema"),
    ]


def test_a_nul_byte_is_a_character_like_another(tmp_path: Path) -> None:
    assert told(lines_of(tmp_path / "a.csv", b"prompt\na\x00b\n")) == [(2, {"prompt": "a\x00b"})]


def test_a_table_in_another_coding_is_refused_with_line_and_byte(tmp_path: Path) -> None:
    with pytest.raises(NotUtf8, match=r"a\.csv:3 is not UTF-8 at byte 2 of the line, byte 11 of the file \(0xe9\)"):
        lines_of(tmp_path / "a.csv", b"prompt\na\nb\xe9\n")
    with pytest.raises(NotUtf8, match="the file is UTF-16"):
        lines_of(tmp_path / "a.csv", "prompt\nsalut\n".encode("utf-16"))


def test_a_table_of_one_column_is_separated_as_its_name_says(tmp_path: Path) -> None:
    assert told(lines_of(tmp_path / "a.tsv", "prompt\na, b; c\n")) == [(2, {"prompt": "a, b; c"})]
    assert told(lines_of(tmp_path / "a.csv", "prompt\na\tb; c\n")) == [(2, {"prompt": "a\tb; c"})]
