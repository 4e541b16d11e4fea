"""What a name stands for: folders with loops, globs, files under several names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.data.find import find_sources
from core.errors import BadConfig, SourceMissing
from core.workspace import open_workspace

ROW = b'{"user": "Salut"}\n'


def paths_of(name: Path | str) -> list[str]:
    return sorted(source.name for source in find_sources(str(name), 8).values())


def test_a_folder_that_leads_into_itself_is_walked_once(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a.jsonl").write_bytes(ROW)
    (tmp_path / "deep" / "er" / "loop").symlink_to(tmp_path)
    (tmp_path / "deep" / "self").symlink_to(tmp_path / "deep")
    (tmp_path / "nowhere.jsonl").symlink_to(tmp_path / "nowhere.jsonl")

    assert paths_of(tmp_path) == [str(tmp_path / "deep" / "er" / "a.jsonl")]
    assert len(paths_of(f"{tmp_path}/**/*.jsonl")) == 1


def test_a_folder_behind_a_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.csv").write_bytes(b"user\na\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "elsewhere")

    assert paths_of(tmp_path / "set") == [str(tmp_path / "set" / "link" / "a.csv")]


def test_a_folder_and_a_glob_take_every_known_ending(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.json.gz", "c.TSV", "d.zst", "e.md", "f"):
        (tmp_path / name).write_bytes(ROW)
    known = [str(tmp_path / name) for name in ("a.jsonl", "b.json.gz", "c.TSV")]

    assert paths_of(tmp_path) == paths_of(f"{tmp_path}/*") == known
    assert paths_of(f"{tmp_path}/*.md") == [str(tmp_path / "e.md")]


def test_a_folder_without_records_says_which_endings_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(ROW)

    with pytest.raises(
        SourceMissing, match=r"holds no file of records \(\.jsonl, \.ndjson, \.json, \.csv, \.tsv, \.parquet\)"
    ):
        paths_of(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROW)
    (tmp_path / "a.jsonl").chmod(0)

    with pytest.raises(SourceMissing, match="cannot be read: Permission denied"):
        paths_of(tmp_path / "a.jsonl")


def test_a_name_of_two_lines_is_told_in_one(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing) as caught:
        paths_of(tmp_path / "rows\nnew.jsonl")

    assert len(str(caught.value).splitlines()) == 2
    assert "rows\\nnew.jsonl does not exist" in caught.value.problem


def test_a_file_whose_name_is_no_utf_8_is_read_and_told(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))).write_bytes(ROW)
    assert paths_of(tmp_path) == [f"{tmp_path}/caf\N{REPLACEMENT CHARACTER}.jsonl"]
    with pytest.raises(BadConfig, match="is not UTF-8, so it cannot be recorded"):
        paths_of(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))


def test_what_edgekiln_made_and_hidden_files_are_no_sources_unless_they_are_named(tmp_path: Path) -> None:
    made = open_workspace(tmp_path / "mine").root / "artifacts" / "data" / "0123456789ab"
    hidden = tmp_path / ".edgekiln" / "artifacts"
    plain = tmp_path / "artifacts"
    for folder in (made, hidden, plain):
        folder.mkdir(parents=True)
        (folder / "a.jsonl").write_bytes(ROW)
    (tmp_path / ".b.jsonl").write_bytes(ROW)
    (tmp_path / "mine" / "own.jsonl").write_bytes(ROW)
    own = [str(tmp_path / "artifacts" / "a.jsonl"), str(tmp_path / "mine" / "own.jsonl")]

    assert paths_of(tmp_path) == paths_of(f"{tmp_path}/**/*.jsonl") == own
    assert paths_of(tmp_path / "mine") == own[1:]
    assert paths_of(made) == paths_of(f"{made.parent}/*/a.jsonl") == [str(made / "a.jsonl")]
    assert paths_of(f"{tmp_path}/.b*") == [str(tmp_path / ".b.jsonl")]
    assert paths_of(f"{tmp_path}/.edge*/**/*.jsonl") == [str(hidden / "a.jsonl")]
