"""What every command shares: an answer is written where a person named it, and nothing that lies there is put out of place."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from core.errors import UsageError
from flows.cli import main
from flows.cli.main import run
from flows.cli.session import write_named

SCHEMAS = [("env", "schema"), ("config", "schema")]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)  # pytest keeps its own handler
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path.with_name(f"{tmp_path.name}-cache")))


@pytest.mark.parametrize("command", SCHEMAS)
def test_a_pipe_stays_a_pipe_and_gets_the_answer(command: tuple[str, ...], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()

    assert run([*command, "-o", str(pipe)]) == 0

    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert got[0].startswith("{")
    assert got[0].endswith("}\n")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    there, link = tmp_path / "there.json", tmp_path / "link.json"
    link.symlink_to(there)

    for text in ("one", "two"):  # first it leads to nothing yet
        write_named(link, text)

    assert link.is_symlink()
    assert there.read_text(encoding="utf-8") == "two\n"


def test_a_link_to_a_pipe_is_written_through(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    write_named(Path(f"/proc/self/fd/{writing}"), "words")  # as /dev/stdout is one
    os.close(writing)
    with os.fdopen(reading) as stream:
        assert stream.read() == "words\n"


@pytest.mark.parametrize("command", [("env",), ("env", "lock"), ("bug-report",), *SCHEMAS])
def test_an_empty_name_is_a_usage_error(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "-o", ""]) == 2
    assert "the path is empty" in capsys.readouterr().err


def test_a_folder_and_a_file_in_none_are_usage_errors_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names a folder"):
        write_named(tmp_path, "words")
    with pytest.raises(UsageError, match="is not there"):
        write_named(tmp_path / "mistyped" / "file", "words")
    assert list(tmp_path.iterdir()) == []
