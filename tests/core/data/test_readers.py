"""Sources: what a name stands for, and reading line by line in bounded memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from core.data.flaws import Flaw
from core.data.readers import Line, open_sources, read_lines
from core.errors import BadConfig, DataError, NotUtf8, SourceEmpty, SourceMissing

ROW = b'{"user": "Salut"}\n'


def put(path: Path, data: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def lines_of(*names: str, max_chars: int = 8000) -> list[Line]:
    return [line for source in open_sources(names, 8) for line in read_lines(source, max_chars)]


def test_a_file_a_folder_and_a_glob_find_the_same_file_once(tmp_path: Path) -> None:
    file = put(tmp_path / "set" / "deep" / "a.jsonl", ROW)

    names = [
        file,
        str(tmp_path / "set"),
        str(tmp_path / "set" / "*" / "*.jsonl"),
        str(tmp_path / "set/deep/../deep/a.jsonl"),
    ]

    assert [source.name for source in open_sources(names, 8)] == [open_sources([names[-1]], 8)[0].name]


def test_a_relative_path_starts_at_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "rows.jsonl", ROW)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    assert [line.where for line in lines_of("../rows.jsonl")] == ["../rows.jsonl:1"]
    assert [line.where for line in lines_of("../*.jsonl")] == ["../rows.jsonl:1"]


@pytest.mark.parametrize("name", ["gone.jsonl", "gone/*.jsonl", "empty-folder", "pipe"])
def test_a_source_that_is_not_there_says_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty-folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SourceMissing) as caught:
        open_sources([name], 8)

    assert str(tmp_path / name) in caught.value.problem
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    ("name", "why"), [("x" * 300, "File name too long"), ("", "names nothing"), (" ", "names nothing")]
)
def test_a_name_that_is_no_path_is_told(name: str, why: str) -> None:
    with pytest.raises(SourceMissing, match=why):
        open_sources([name], 8)


@pytest.mark.parametrize("data", [b"", b"\n\n  \r\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_a_record_is_empty(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(SourceEmpty, match="0 records"):
        open_sources([put(tmp_path / "a.jsonl", data)], 8)


def test_an_unknown_builtin_is_a_mistake_in_the_configuration() -> None:
    with pytest.raises(BadConfig, match="builtin:perl-docs"):
        open_sources(["builtin:perl-docs"], 8)


def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    name = put(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + ROW + b"\r\n" + b'{"user": "b"}\r\n' + b'{"user": "last"}')

    found = lines_of(name)

    assert [line.where for line in found] == [f"{name}:1", f"{name}:3", f"{name}:4"]
    assert [line.record for line in found] == [{"user": "Salut"}, {"user": "b"}, {"user": "last"}]
    assert found[-1].end_byte == (tmp_path / "a.jsonl").stat().st_size


def test_bytes_that_are_not_utf8_are_named_by_line_and_byte(tmp_path: Path) -> None:
    name = put(tmp_path / "latin1.jsonl", ROW + '{"user": "frette à soir, tsé"}\n'.encode("latin-1"))

    good, bad = lines_of(name)

    assert good.record == {"user": "Salut"}
    assert isinstance(bad.record, Flaw)
    assert (bad.where, bad.record.code) == (f"{name}:2", "not-utf8")
    assert bad.record.reason == "not UTF-8 at byte 18 of the line, byte 36 of the file (0xe0)"


def test_utf16_is_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(NotUtf8, match=r":1 is not UTF-8 at byte 1 of the line, byte 1 of the file \(0xff\)"):
        lines_of(put(tmp_path / "a.jsonl", ROW.decode().encode("utf-16")))


def test_an_endless_line_is_set_aside_in_bounded_memory(tmp_path: Path) -> None:
    name = put(tmp_path / "a.jsonl", ROW + b'{"user": "' + "é".encode() * (16 << 20) + b'"}\n' + ROW)
    sources = open_sources([name], 8)
    tracemalloc.start()

    found = [line for source in sources for line in read_lines(source, 8000)]

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [isinstance(line.record, Flaw) for line in found] == [False, True, False]
    assert isinstance(found[1].record, Flaw)
    assert found[1].record.code == "line-too-long"
    assert found[2].where == f"{name}:3"
    assert peak < 8 << 20


def test_the_longest_line_grows_with_the_longest_prompt(tmp_path: Path) -> None:
    name = put(tmp_path / "a.jsonl", b'{"user": "' + b"x" * (2 << 20) + b'"}\n')

    assert isinstance(lines_of(name)[0].record, Flaw)
    assert isinstance(lines_of(name, max_chars=2 << 20)[0].record, dict)


def test_a_file_that_changes_between_hashing_and_reading_is_refused(tmp_path: Path) -> None:
    name = put(tmp_path / "a.jsonl", ROW)
    (source,) = open_sources([name], 8)
    put(tmp_path / "a.jsonl", ROW + ROW)

    with pytest.raises(DataError, match="changed while it was read"):
        list(read_lines(source, 8000))


def test_the_order_of_names_changes_nothing(tmp_path: Path) -> None:
    names = [put(tmp_path / f"{n}.jsonl", ROW * n) for n in (1, 2, 3)]

    assert open_sources(names, 8) == open_sources(names[::-1], 8)
