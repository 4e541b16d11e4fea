"""All formats through the door: the same records give the same drafts, every record comes out once, bad files end well."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from core.data.flaws import REMEDIES, Flaw
from core.data.readers import Line, Source, open_sources, read_lines
from core.data.shapes import Draft, draft_of
from core.errors import DataError, SourceEmpty

ROWS = [{"user": f"Question {n}?", "completion": f"Réponse {n}."} for n in range(300)]
FIELDS = ("user", "system_hint", "messages", "tool_schema", "requires_json", "completion", "note")
FORMATS = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.json.zst", "a.csv.zst", "a.csv.gz")


def lines_of(path: Path | str, max_chars: int = 8000) -> list[Line]:
    return [line for source in open_sources([str(path)], 8) for line in read_lines(source, max_chars)]


def cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, dict | list | bool) else value


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows in the format that the file's name says."""
    kind = path.name.split(".")[1]
    plain = path.with_name(f"plain.{kind}")
    fields = [field for field in FIELDS if any(field in row for row in rows)]
    if kind == "jsonl":
        plain.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    elif kind == "json":
        plain.write_bytes(json.dumps(rows, indent=1).encode())
    elif kind == "parquet":
        columns = [[cell(row.get(field)) if field == "tool_schema" else row.get(field) for row in rows] for field in fields]
        parquet.write_table(pa.table(columns, fields), plain, row_group_size=100)
    else:
        with plain.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, fields, delimiter="\t" if kind == "tsv" else ",")
            table.writeheader()
            table.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    data = plain.read_bytes()
    plain.unlink()
    packed = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)(data)
    path.write_bytes(packed)
    return path


def drafts_of(path: Path) -> list[Draft | Flaw]:
    return [
        line.record if isinstance(line.record, Flaw) else draft_of(line.record, "auto") for line in lines_of(path)
    ]  # fmt: skip


TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
SCHEMAS = st.dictionaries(TEXT, st.integers() | TEXT | st.booleans(), min_size=1, max_size=2)
RECORDS = st.fixed_dictionaries(
    {"user": TEXT},
    optional={
        "system_hint": TEXT,
        "tool_schema": SCHEMAS,
        "requires_json": st.booleans(),
        "completion": TEXT,
        "note": TEXT,
    },
)
CHATS = st.builds(
    lambda texts: {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]},
    st.lists(TEXT.filter(str.strip), min_size=1, max_size=4),
)


@settings(deadline=None, max_examples=40)
@given(st.lists(RECORDS | CHATS, min_size=1, max_size=6))
def test_the_same_records_give_the_same_drafts_in_every_format(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        expected = drafts_of(write(Path(name) / FORMATS[0], rows))
        assert len(expected) == len(rows)
        assert all(isinstance(draft, Draft) for draft in expected)
        for format_name in FORMATS[1:]:
            assert drafts_of(write(Path(name) / format_name, rows)) == expected, format_name


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_is_named_by_source_and_number_and_the_source_ends_with_its_bytes(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)

    found = lines_of(path)

    header = 1 if ".csv" in name or ".tsv" in name else 0
    assert [line.where for line in found] == [f"{path}:{n + header}" for n in range(1, len(ROWS) + 1)]
    assert [line.record for line in found] == ROWS
    ends = [line.end_byte for line in found]
    assert ends == sorted(ends)
    assert 0 < ends[-1] <= path.stat().st_size


@pytest.mark.parametrize("name", [name for name in FORMATS if ".csv" not in name and ".tsv" not in name])
def test_a_name_without_an_ending_is_read_by_its_content(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS).rename(tmp_path / "rows")

    assert [line.record for line in lines_of(path)] == ROWS


def test_a_folder_of_all_formats_is_read_in_an_order_of_contents(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no records", encoding="utf-8")
    files = [write(tmp_path / name, ROWS[n : n + 3]) for n, name in enumerate(FORMATS)]

    by_folder = open_sources([str(tmp_path)], 8)

    assert by_folder == open_sources([str(file) for file in reversed(files)], 8) == open_sources([f"{tmp_path}/*"], 8)
    assert {source.path for source in by_folder} == set(files)
    assert {source.sha256 for source in by_folder} == {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_changes_between_hashing_and_reading_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    (source,) = open_sources([str(path)], 8)
    write(path, ROWS[:-1])

    with pytest.raises(DataError, match="changed while it was read"):
        list(read_lines(source, 8000))


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    (source,) = open_sources([str(path)], 8)
    lines = read_lines(source, 8000)
    next(lines)
    with path.open("ab") as stream:
        stream.write(b"\n")

    with pytest.raises(DataError, match="changed while it was read"):
        list(lines)


@pytest.mark.parametrize("name", [name for name in FORMATS if name.endswith((".gz", ".zst"))])
@pytest.mark.parametrize("cut", [10, 0.5, -3])
def test_a_packed_file_that_was_cut_off_is_refused_with_byte_and_count(tmp_path: Path, name: str, cut: float) -> None:
    rng = random.Random(4)
    rows = [{"user": rng.randbytes(40).hex()} for _ in range(4000)]
    path = write(tmp_path / name, rows)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut) if isinstance(cut, float) else cut])

    with pytest.raises(DataError) as caught:
        lines_of(path)

    kind = "gzip" if name.endswith(".gz") else "zstd"
    size = path.stat().st_size
    assert f"source {path} breaks off as {kind} at byte {size} of {size}, after " in caught.value.problem
    count = int(caught.value.problem.split("after ")[1].split()[0])
    assert (count > 0) == (cut != 10)


def test_a_packed_file_with_a_flipped_bit_or_rubbish_behind_it_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl.gz", ROWS).read_bytes()
    for broken in (data[:-8] + bytes([data[-8] ^ 1]) + data[-7:], data + b"rubbish"):
        (tmp_path / "a.jsonl.gz").write_bytes(broken)
        with pytest.raises(DataError, match="breaks off as gzip") as caught:
            lines_of(tmp_path / "a.jsonl.gz")
        assert ("something that is not packed stands behind" in caught.value.problem) == broken.endswith(b"rubbish")


def test_archives_one_behind_another_are_one_file(tmp_path: Path) -> None:
    for name, pack in (("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)):
        (tmp_path / name).write_bytes(pack(b'{"user": "a"}\n') + pack(b'{"user": "b"}\n'))
        assert [line.record for line in lines_of(tmp_path / name)] == [{"user": "a"}, {"user": "b"}]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_a_bomb_without_a_line_end_is_one_flaw_in_bounded_memory(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(pack(b'{"user": "' + b"a" * (64 << 20) + b'"}\n{"user": "b"}\n'))
    assert path.stat().st_size < 1 << 20
    sources = open_sources([str(path)], 8)
    tracemalloc.start()

    found = [line for source in sources for line in read_lines(source, 8000)]

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(found[0].record, Flaw)
    assert (found[0].record.code, found[1].record) == ("line-too-long", {"user": "b"})
    assert peak < 8 << 20


@pytest.mark.full
def test_a_bomb_that_goes_on_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json.zst"
    piece = zstandard.compress(b"[" + b"1" * (64 << 20))
    path.write_bytes(piece * 20)

    with pytest.raises(DataError, match=r"after 0 records: one element has > 1073741824 bytes"):
        lines_of(path)
    path.rename(tmp_path / "a.jsonl.zst")
    with pytest.raises(DataError, match=r"after 0 records: one line has > 1073741824 bytes"):
        lines_of(tmp_path / "a.jsonl.zst")


@pytest.mark.full
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_line_of_200_megabytes_is_set_aside_in_bounded_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as stream:
        stream.write({"a.jsonl": b'{"user": "', "a.json": b'[{"user": "', "a.csv": b'user\n"'}[name])
        for _ in range(200):
            stream.write(b"x" * 1_000_000)
        stream.write({"a.jsonl": b'"}\n{"user": "b"}\n', "a.json": b'"}, {"user": "b"}]', "a.csv": b'"\nb\n'}[name])
    sources = open_sources([str(path)], 8)
    tracemalloc.start()

    found = [line for source in sources for line in read_lines(source, 8000)]

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [isinstance(line.record, Flaw) for line in found] == [True, False]
    assert peak < 10 << 20


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    peaks = []
    for factor in (4, 16):
        (source,) = open_sources(
            [str(write(tmp_path / name, [{"user": "x" * 1000, "note": str(n)} for n in range(factor * 500)]))], 8
        )
        tracemalloc.start()
        assert sum(1 for _ in read_lines(source, 8000)) == factor * 500
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + (2 << 20)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"[]"),
        ("a.json", b" [\n] \n"),
        ("a.csv", b"prompt,completion\n"),
        ("a.csv", b"prompt\r\n\r\n\r\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.zst", zstandard.compress(b"\n \n")),
    ],
)
def test_a_file_without_a_record_is_empty(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)

    with pytest.raises(SourceEmpty, match=f"{name} holds 0 records"):
        open_sources([str(tmp_path / name)], 8)


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
@settings(deadline=None, max_examples=60)
@given(data=st.binary(max_size=60) | st.text('{}[]",:\\ \n\r;au0', max_size=60).map(str.encode))
def test_any_bytes_end_in_records_flaws_or_an_error_of_data(form: Any, data: bytes) -> None:
    source = Source(name="x", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data, form=form)
    try:
        found = list(read_lines(source, 8000))
    except DataError:
        return
    assert len({line.where for line in found}) == len(found)
    assert all(line.record.code in REMEDIES for line in found if isinstance(line.record, Flaw))
    assert all(line.end_byte <= len(data) for line in found)
