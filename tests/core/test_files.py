"""Hashing, atomic writing, confinement."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DiskFull, PathEscapes
from core.files import (
    append_line,
    canonical_json,
    confine,
    digest_of,
    disk_full_is_an_error,
    read_json_lines,
    replace_json_lines,
    write_atomic,
    write_json_lines,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_the_digest_does_not_depend_on_the_order_of_keys(value: dict[str, object]) -> None:
    assert digest_of(value) == digest_of(dict(reversed(list(value.items()))))


def test_canonical_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"loss": float("nan")})


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\\..\\b", "", "."])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(PathEscapes):
        confine(tmp_path, path)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link").symlink_to(tmp_path)
    with pytest.raises(PathEscapes):
        confine(tmp_path / "inside", "link/other")


def test_a_path_inside_is_given_back(tmp_path: Path) -> None:
    assert confine(tmp_path, "a/b.json") == tmp_path / "a" / "b.json"


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_json_lines_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    assert write_json_lines(path, [{"text": text}, {"n": 1}]) == 2
    assert list(read_json_lines(path)) == [{"text": text}, {"n": 1}]


def test_no_space_left_is_an_error_of_the_machine(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space left"), disk_full_is_an_error(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), disk_full_is_an_error(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_a_full_disk_leaves_the_old_file_and_no_scratch(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the write fails with EFBIG as it would with ENOSPC, half way."""
    target = tmp_path / "pointer.json"
    target.write_text("old")
    script = (
        "import resource, signal, sys; from pathlib import Path; from core.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_atomic(Path(sys.argv[1]), b'x' * 100_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomic(folder, b"data")
    assert caught.value.filename == str(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_write_atomic_makes_the_folder_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_atomic(target, b"one")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"


def test_a_line_for_which_there_is_only_half_the_space_leaves_no_half(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    append_line(path, b"first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(DiskFull, match="limit on file sizes"):
            append_line(path, b"the second is longer")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"first\n"
    append_line(path, b"third")
    assert path.read_bytes() == b"first\nthird\n"


def test_lines_that_are_replaced_are_whole_for_a_reader_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_json_lines(path, [{"row": 1}, {"row": 2}])
    seen = []

    def fresh() -> Iterator[dict[str, object]]:
        for row in (3, 4, 5):
            seen.append(list(read_json_lines(path)))
            yield {"row": row}

    replace_json_lines(path, fresh())
    assert seen == [[{"row": 1}, {"row": 2}]] * 3
    assert list(read_json_lines(path)) == [{"row": 3}, {"row": 4}, {"row": 5}]
    assert [one.name for one in tmp_path.iterdir()] == ["rows.jsonl"]
