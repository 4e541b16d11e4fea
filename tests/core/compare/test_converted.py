"""Converted folders in the user's cache: made once of the same bytes, the newest kept, never taken from who reads them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.compare import converted as room
from core.compare.converted import FILE, KEEP, converted
from core.errors import ProcessFailed, WorkspaceLocked
from core.events import Event, Note, ignore
from core.workspace import Workspace, locked
from flows.cli.compare import compare
from flows.cli.session import Common
from tests.core.compare.test_compare import rows_file

pytestmark = pytest.mark.model
REPOSITORY = Path(__file__).parents[3]
READER = """
import sys
from pathlib import Path
from types import SimpleNamespace
from core.compare.converted import converted
from core.events import ignore
with converted(Path(sys.argv[1]), SimpleNamespace(identity=lambda: "x"), ignore) as path:
    print(path, flush=True)
    sys.stdin.read()
"""
TOOLS = SimpleNamespace(identity=lambda: "x")  # stands for llama.cpp where no file is converted


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "converted"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []

    def convert(folder: Path, target: Path, *_: object, **__: object) -> None:
        made.append(folder)
        target.write_bytes(folder.name.encode() * 100)
        target.with_suffix(".log").write_bytes(b"")

    monkeypatch.setattr(room, "convert", convert)
    return made


def model(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    return folder


def used(folder: Path) -> Path:
    with converted(folder, TOOLS, ignore) as path:
        assert path.name == FILE
        return path


def test_the_same_bytes_are_converted_once_and_others_anew(conversions: list[Path], tmp_path: Path) -> None:
    folder = model(tmp_path, "a")
    first = used(folder)
    assert used(folder) == first
    assert conversions == [folder]
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert used(folder) != first
    assert len(conversions) == 2


def test_only_those_that_were_used_last_stay(conversions: list[Path], cache: Path, tmp_path: Path) -> None:
    folders = [model(tmp_path, name) for name in "abcd"]
    paths = []
    for age, folder in enumerate(folders):
        paths.append(used(folder))
        os.utime(paths[-1].parent, (age, age))
    assert [path.exists() for path in paths] == [False] * (4 - KEEP) + [True] * KEEP
    used(folders[2])
    os.utime(paths[3].parent, (1, 1))
    used(folders[0])
    assert (paths[2].exists(), paths[3].exists()) == (True, False)
    assert sorted(path.name for path in cache.iterdir()) == sorted([paths[0].parent.name, paths[2].parent.name])


def test_one_that_another_process_reads_stays_until_the_process_dies(
    conversions: list[Path], tmp_path: Path, cache: Path
) -> None:
    folders = [model(tmp_path, name) for name in "abcd"]
    used(folders[0])
    command = [sys.executable, "-c", READER, str(folders[0])]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as reader:
        assert reader.stdout is not None
        read = Path(reader.stdout.readline().strip())
        for folder in folders[1:]:
            os.utime(read.parent, (1, 1))
            used(folder)
        assert read.exists()
        reader.kill()
    os.utime(read.parent, (1, 1))
    used(folders[3])
    assert not read.exists()


def test_a_broken_file_and_one_half_made_are_made_anew(conversions: list[Path], cache: Path, tmp_path: Path) -> None:
    folder, heard = model(tmp_path, "a"), list[Event]()
    path = used(folder)
    path.write_bytes(b"flipped")
    left = cache / ".0123-left-by-a-kill"
    left.mkdir()
    with converted(folder, TOOLS, heard.append) as again:
        assert again.read_bytes() == b"a" * 100
    assert any(isinstance(event, Note) and "is converted anew" in event.text for event in heard)
    (path.parent / "manifest.json").unlink()
    used(folder)
    assert len(conversions) == 3
    assert not left.exists()


@pytest.mark.full
def test_a_folder_that_cannot_be_converted_leaves_nothing(toolchain, cache: Path, tmp_path: Path) -> None:
    folder = model(tmp_path, "a")
    with (
        pytest.raises(ProcessFailed, match=f"{folder} cannot be converted: .*status 1") as told,
        converted(folder, toolchain, ignore),
    ):
        pass
    assert list(cache.iterdir()) == []
    assert Path(told.value.remedy.removeprefix("Read ").partition(",")[0]).read_text(encoding="utf-8")


def test_a_comparison_is_refused_beside_a_run_of_the_same_workspace(workspace: Workspace, tmp_path: Path) -> None:
    with locked(workspace, "edgekiln run"), pytest.raises(WorkspaceLocked, match="edgekiln run"):
        compare(str(tmp_path), str(tmp_path), common=Common(workspace=workspace.root))


@pytest.mark.full
def test_real_folders_are_compared_twice_and_converted_once(
    toolchain, tiny_smollm_student: Path, workspace: Workspace, tmp_path: Path, cache: Path, capsys
) -> None:
    cache.parent.mkdir()
    (cache.parent / "toolchain").symlink_to(toolchain.folder.parent)
    folder, rows = shutil.copytree(tiny_smollm_student, tmp_path / "pupil"), rows_file(tmp_path)
    told, inodes = [], list[int]()
    for prompts in (2, 3):
        common = Common(workspace=workspace.root, json=True)
        compare(str(folder), str(folder), rows=rows, prompts=prompts, max_tokens=4, common=common)
        told.append(json.loads(capsys.readouterr().out))
        (entry,) = cache.iterdir()
        assert told[-1]["models"][0]["path"] == str(entry / FILE)
        inodes.append((entry / FILE).stat().st_ino)
    assert {q["answer"]["content"] for q in told[0]["questions"]} <= {q["answer"]["content"] for q in told[1]["questions"]}
    assert inodes[0] == inodes[1]
    assert told[0]["models"][0]["name"] == "pupil"
    assert not list((workspace.root / "comparisons").glob("*.gguf"))
