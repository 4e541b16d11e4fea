"""Which form a file has, by its first bytes and its name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from core.data.readers import open_sources, read_lines
from core.errors import DataError, NotUtf8


@pytest.mark.parametrize("kind", [0x50, 0x5F])
def test_zstd_that_begins_with_a_frame_to_skip_is_zstd(tmp_path: Path, kind: int) -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(b'{"user": "a"}\n')
    (tmp_path / "a.jsonl.zst").write_bytes(bytes([kind]) + b"*M\x18\x04\0\0\0abcd" + sink.getvalue().to_pybytes())

    (source,) = open_sources([str(tmp_path / "a.jsonl.zst")], 8)

    assert [line.record for line in read_lines(source, 8000)] == [{"user": "a"}]


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.jsonl", b'{"user": "a"}\n', "jsonl"),
        ("a.ndjson", b"[1]\n", "jsonl"),
        ("a.JSON", b'[{"user": "a"}]', "json"),
        ("a.json", b'{"user": "a"}\n{"user": "b"}\n', "jsonl"),
        ("a.json", b'{\n "user": "a"}\n', "json"),
        ("a.json", b'{"user": "a"}', "json"),
        ("a.txt", b'\xef\xbb\xbf [{"user": "a"}]', "json"),
        ("a", b'{"user": "a"}', "jsonl"),
        ("a.csv", b"user\na\n", "csv"),
        ("a.2025.tsv.gz", gzip.compress(b"user\na\n", mtime=0), "csv"),
        ("a.gz", gzip.compress(b'[{"user": "a"}]', mtime=0), "json"),
    ],
)
def test_name_and_first_bytes_tell_the_form(tmp_path: Path, name: str, data: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(data)

    (source,) = open_sources([str(tmp_path / name)], 8)

    assert source.form == form
    assert source.packing == ("gzip" if name.endswith(".gz") else None)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(bz2.compress(b"a"), "bzip2"), (lzma.compress(b"a"), "xz"), (b"SQLite format 3\x00", "SQLite")],
)
def test_what_cannot_be_read_is_named_by_what_it_is(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)

    with pytest.raises(DataError, match=f"a.jsonl is {kind}, which edgekiln does not read"):
        open_sources([str(tmp_path / "a.jsonl")], 8)


def test_archives_and_arrow_files_are_named_by_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"user": "a"}\n')
    table = pa.table({"user": ["a"]})
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.jsonl")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(tmp_path / "a.jsonl")
    with pa.ipc.new_file(tmp_path / "c.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_stream(tmp_path / "d.arrow", table.schema) as writer:
        writer.write_table(table)

    for name, kind in (
        ("a.tar.gz", "a tar archive"),
        ("b.tar", "a tar archive"),
        ("c.arrow", "Arrow"),
        ("d.arrow", "an Arrow stream"),
    ):
        with pytest.raises(DataError, match=f"{name} is {kind}"):
            open_sources([str(tmp_path / name)], 8)


def test_a_spreadsheet_is_not_read_as_text(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")

    with pytest.raises(DataError, match="is zip"):
        open_sources([str(tmp_path / "a.xlsx")], 8)


def test_parquet_is_what_its_bytes_say(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"user": ["a"]}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(data))
    (tmp_path / "c.parquet").write_bytes(b'{"user": "a"}\n')

    assert open_sources([str(tmp_path / "a.jsonl")], 8)[0].form == "parquet"
    with pytest.raises(DataError, match="a Parquet file inside gzip"):
        open_sources([str(tmp_path / "b.parquet.gz")], 8)
    with pytest.raises(DataError, match="does not start with PAR1"):
        open_sources([str(tmp_path / "c.parquet")], 8)


def _read(path: Path) -> None:
    for source in open_sources([str(path)], 8):
        list(read_lines(source, 8000))


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_utf16_is_called_by_its_name(tmp_path: Path, name: str, coding: str) -> None:
    (tmp_path / name).write_bytes('{"user": "Salut"}\n'.encode(coding))

    with pytest.raises(NotUtf8, match=f"the file is {coding.upper()[:6]}") as caught:
        _read(tmp_path / name)
    assert f"-f {coding.upper()[:6]} -t UTF-8" in caught.value.remedy
