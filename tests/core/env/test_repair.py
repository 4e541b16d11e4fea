"""Repairing real virtual environments: what is broken is found, mended from a folder of wheels, and put back byte for byte."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from core.env import repair, snapshot
from core.env.faults import Fault, FaultKind, Wish
from core.env.installed import Source, Tool, survey
from core.errors import RepairFailed, ToolMissing
from tests.core.env import venvs

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheelhouse")
    venvs.make_wheel(folder, "alpha", "1.0", needs=["beta>=1"], script=True)
    venvs.make_wheel(folder, "alpha", "2.0", needs=["beta>=1"], script=True)
    venvs.make_wheel(folder, "beta", "1.0")
    venvs.make_wheel(folder, "torchlet", "1.0")
    venvs.make_wheel(folder, "torchlet", "1.0+cpu")
    venvs.make_wheel(folder, "large", "1.0", modules=4000)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def nothing_but_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def python(tmp_path: Path) -> Path:
    return venvs.make_venv(tmp_path / "venv")


def wish(*requirements: str, accelerated: bool = False, pins: dict[str, str] | None = None) -> Wish:
    return Wish(tuple(map(Requirement, requirements)), pins or {}, accelerated)


def planned(python: Path, wanted: Wish, wheelhouse: Path, tmp_path: Path, tool: Tool = "pip") -> repair.Plan:
    return repair.make_plan(python, wanted, Source(wheelhouse), tmp_path / "scratch", tool=tool)


def kinds(faults: Sequence[Fault]) -> dict[str, FaultKind]:
    return {fault.name: fault.kind for fault in faults}


@pytest.mark.parametrize("own_pip", [False, pytest.param(True, marks=pytest.mark.full)], ids=["our-pip", "its-own-pip"])
def test_a_broken_environment_is_mended_offline_and_rolled_back_byte_for_byte(
    own_pip: bool, tmp_path: Path, wheelhouse: Path
) -> None:
    python = venvs.make_venv(tmp_path / "venv", pip=own_pip)
    venvs.put(python, "alpha==1.0", "torchlet==1.0+cpu", source=wheelhouse)
    before, listing = venvs.freeze(python), tree(python)
    wanted = wish("alpha==2.0", "torchlet==1.0", accelerated=True)

    plan = planned(python, wanted, wheelhouse, tmp_path)
    assert kinds(plan.faults) == {
        "alpha": FaultKind.VERSION,
        "beta": FaultKind.MISSING,
        "torchlet": FaultKind.BUILD,
    }
    assert plan.installer.command[0] == (str(python) if own_pip else sys.executable)
    assert (venvs.freeze(python), tree(python)) == (before, listing)  # a plan changes nothing
    assert "Would install alpha-2.0 beta-1.0 torchlet-1.0" in repair.preview(plan, tmp_path / "scratch")
    assert venvs.freeze(python) == before

    done = repair.apply(plan, tmp_path / "scratch")
    assert (done.faults_before, done.faults_after) == (3, ())
    assert {change.name: (change.before, change.after) for change in done.changes} == {
        "alpha": ("1.0", "2.0"),
        "beta": (None, "1.0"),
        "torchlet": ("1.0+cpu", "1.0"),
    }
    assert (venvs.said(python, "alpha"), venvs.said(python, "torchlet")) == ("2.0", "1.0")

    back, changed = repair.roll_back(python, tmp_path / "scratch")
    assert back.snapshot_id == done.snapshot_id
    assert len(changed) == 3
    assert venvs.freeze(python) == before == back.freeze.encode()
    assert venvs.said(python, "alpha") == "1.0"
    assert tree(python) == listing


def tree(python: Path) -> dict[str, bytes]:
    """Every file of the packages and scripts with its content, but what compiling on import leaves."""
    folders = (venvs.site(python), python.parent)
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path): path.read_bytes() for path in files if not path.is_symlink()}


def broken_module_gone(packages: Path, name: str) -> None:
    shutil.rmtree(packages / name)


def broken_file_cut_short(packages: Path, name: str) -> None:
    (packages / f"{name}/__init__.py").write_bytes(b"")


def broken_metadata_gone(packages: Path, name: str) -> None:
    (packages / f"{name}-1.0.dist-info/METADATA").unlink()


def broken_record_gone(packages: Path, name: str) -> None:
    (packages / f"{name}-1.0.dist-info/RECORD").unlink()


def broken_all_but_the_folder_gone(packages: Path, name: str) -> None:
    for path in (packages / f"{name}-1.0.dist-info").iterdir():
        path.unlink()


def broken_twice_there(packages: Path, name: str) -> None:
    about = packages / f"{name}-0.5.dist-info"
    shutil.copytree(packages / f"{name}-1.0.dist-info", about)
    text = (about / "METADATA").read_text(encoding="utf-8")
    (about / "METADATA").write_text(text.replace("1.0", "0.5"), encoding="utf-8")


def broken_pip_was_killed(packages: Path, name: str) -> None:
    shutil.copytree(packages / name, packages / f"~{name[1:]}")


DAMAGES = {
    "gone": (broken_module_gone, FaultKind.INCOMPLETE, "is missing"),
    "short": (broken_file_cut_short, FaultKind.INCOMPLETE, "has 0 bytes, RECORD says 16"),
    "nameless": (broken_metadata_gone, FaultKind.NO_METADATA, "has no METADATA"),
    "unlisted": (broken_record_gone, FaultKind.NO_METADATA, "has no RECORD"),
    "hollow": (broken_all_but_the_folder_gone, FaultKind.NO_METADATA, "has no METADATA and RECORD"),
    "twice": (broken_twice_there, FaultKind.DOUBLE, "lie side by side"),
    "killed": (broken_pip_was_killed, FaultKind.LEFTOVER, "~illed"),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An environment with one package for each damage, broken that way, and the folder to mend it from."""
    folder = tmp_path_factory.mktemp("broken")
    wheels = [venvs.make_wheel(folder / "wheels", name, "1.0") for name in DAMAGES]
    python = venvs.make_venv(folder / "venv")
    venvs.put(python, *DAMAGES, source=folder / "wheels")
    for name, (damage, _, _) in DAMAGES.items():
        damage(venvs.site(python), name)
    return python, wheels[0].parent


def test_every_kind_of_incomplete_installation_is_mended_and_put_back(broken: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = broken
    before, listing = venvs.freeze(python), tree(python)
    plan = planned(python, wish("gone==1.0"), wheels, tmp_path)

    assert {name.replace("~", "k"): kind for name, kind in kinds(plan.faults).items()} == {
        name: kind for name, (_, kind, _) in DAMAGES.items()
    }
    for fault in plan.faults:
        assert DAMAGES[fault.name.replace("~", "k")][2] in fault.evidence
        assert fault.blocks is (fault.name == "gone")  # nothing asks for the others

    done = repair.apply(plan, tmp_path / "scratch")
    assert done.faults_after == ()
    assert {venvs.said(python, name) for name in DAMAGES} == {"1.0"}
    assert venvs.freeze(python).decode().split() == sorted(f"{name}==1.0" for name in DAMAGES)

    repair.roll_back(python, tmp_path / "scratch")
    assert venvs.freeze(python) == before
    assert tree(python) == listing


@pytest.mark.full
def test_an_installation_killed_in_the_middle_is_rolled_back(python: Path, tmp_path: Path, wheelhouse: Path) -> None:
    venvs.put(python, "beta==1.0", source=wheelhouse)
    before, listing = venvs.freeze(python), tree(python)
    program = (
        "from pathlib import Path; from packaging.requirements import Requirement\n"
        "from core.env import repair; from core.env.faults import Wish; from core.env.installed import Source\n"
        f"plan = repair.make_plan(Path({str(python)!r}), Wish((Requirement('large'),), {{}}), Source(Path({str(wheelhouse)!r})),"
        f" Path({str(tmp_path / 'child')!r}), tool='pip')\n"
        f"repair.apply(plan, Path({str(tmp_path / 'child')!r}))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.perf_counter() + 60
    while not list(venvs.site(python).glob("large/part1*.py")) and time.perf_counter() < deadline:
        time.sleep(0.002)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) != 0
    assert 0 < len(list(venvs.site(python).glob("large/*.py"))) < 4000

    back, _ = repair.roll_back(python, tmp_path / "scratch")
    assert "large" not in back.freeze
    assert venvs.freeze(python) == before
    assert tree(python) == listing


def test_the_lock_is_held_as_long_as_an_installer_runs_that_outlives_its_parent(
    python: Path, tmp_path: Path, wheelhouse: Path
) -> None:
    program = (
        "from pathlib import Path; from packaging.requirements import Requirement\n"
        "from core.env import repair; from core.env.faults import Wish; from core.env.installed import Source\n"
        f"plan = repair.make_plan(Path({str(python)!r}), Wish((Requirement('large'),), {{}}), Source(Path({str(wheelhouse)!r})),"
        f" Path({str(tmp_path / 'child')!r}), tool='pip')\n"
        f"repair.apply(plan, Path({str(tmp_path / 'child')!r}))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.perf_counter() + 60
    while not list(venvs.site(python).glob("large/part1*.py")) and time.perf_counter() < deadline:
        time.sleep(0.002)
    child.kill()
    child.wait(20)

    with (python.parent.parent / snapshot.FOLDER / "one-at-a-time.lock").open("a") as stream:
        with pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(stream, fcntl.LOCK_EX)  # pip has ended
    assert len(list(venvs.site(python).glob("large/*.py"))) == 4000


def test_what_an_error_names_is_still_there(python: Path, tmp_path: Path, wheelhouse: Path) -> None:
    plan = planned(python, wish("nowhere==1.0"), wheelhouse, tmp_path)
    with pytest.raises(RepairFailed, match="nowhere") as caught:
        repair.preview(plan, tmp_path / "scratch")
    named = Path(caught.value.remedy.split()[1].rstrip("."))
    assert "nowhere" in named.read_text(encoding="utf-8")
    assert tmp_path / "scratch" not in named.parents

    with pytest.raises(RepairFailed, match="ls") as caught:
        survey(Path("/bin/ls"), tmp_path / "scratch")
    assert "scratch" not in caught.value.remedy


def test_what_cannot_be_brought_leaves_a_snapshot_and_says_how_to_go_back(
    python: Path, tmp_path: Path, wheelhouse: Path
) -> None:
    plan = planned(python, wish("nowhere==1.0"), wheelhouse, tmp_path)
    with pytest.raises(RepairFailed, match="nowhere") as caught:
        repair.apply(plan, tmp_path / "scratch")
    assert "edgekiln env fix --rollback" in caught.value.remedy
    assert snapshot.snapshots(python.parent.parent)
    with pytest.raises(RepairFailed, match="nowhere"):
        repair.preview(plan, tmp_path / "scratch")


def test_without_a_snapshot_and_with_an_altered_one_nothing_is_touched(
    python: Path, tmp_path: Path, wheelhouse: Path
) -> None:
    with pytest.raises(RepairFailed, match="no snapshot"):
        repair.roll_back(python, tmp_path / "scratch")
    venvs.put(python, "beta==1.0", source=wheelhouse)
    plan = planned(python, wish("alpha==1.0"), wheelhouse, tmp_path)
    taken = snapshot.take(plan.found, plan.installer, tmp_path / "scratch")
    kept = snapshot.folder_of(taken) / "files" / venvs.site(python).relative_to(python.parent.parent) / "beta/__init__.py"
    kept.write_text("altered", encoding="utf-8")
    listing = tree(python)
    with pytest.raises(RepairFailed, match="1 kept files are not as they were"):
        repair.roll_back(python, tmp_path / "scratch")
    with pytest.raises(RepairFailed, match=f"no snapshot 1970.*{taken.snapshot_id}"):
        repair.roll_back(python, tmp_path / "scratch", "1970")
    assert tree(python) == listing


def test_a_snapshot_that_was_being_taken_is_no_snapshot_and_old_ones_go(python: Path, tmp_path: Path) -> None:
    plan = planned(python, wish(), tmp_path, tmp_path)
    home = python.parent.parent / snapshot.FOLDER
    (home / ".20200101T000000000000" / "files").mkdir(parents=True)
    (home / "20200101T000000000000").mkdir()
    (home / "20200101T000000000000" / "snapshot.json").write_text("{", encoding="utf-8")
    newest = snapshot.take(plan.found, plan.installer, tmp_path / "scratch")
    older = [newest.model_copy(update={"snapshot_id": f"2025010{day}T000000000000"}) for day in range(1, 5)]
    for one in older:
        (home / one.snapshot_id).mkdir()
        (home / one.snapshot_id / "snapshot.json").write_text(one.model_dump_json(), encoding="utf-8")
    snapshot.prune(python.parent.parent)
    assert snapshot.snapshots(python.parent.parent) == [newest, older[3], older[2]]
    assert not (home / ".20200101T000000000000").exists()


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    (tmp_path / "a").write_text("content", encoding="utf-8")
    monkeypatch.setattr(os, "link", refuses)  # a second file system cannot be mounted here
    snapshot.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text(encoding="utf-8") == "content"
    assert (tmp_path / "b").stat().st_mtime_ns == (tmp_path / "a").stat().st_mtime_ns


def test_links_and_empty_folders_come_back_too(python: Path, tmp_path: Path) -> None:
    packages = venvs.site(python)
    (packages / "hollow" / "inner").mkdir(parents=True)
    (packages / "module.py").write_text("x = 1\n", encoding="utf-8")
    (packages / "linked.py").symlink_to("module.py")
    (packages / "folder").symlink_to("hollow")
    plan = planned(python, wish(), tmp_path, tmp_path)
    snapshot.take(plan.found, plan.installer, tmp_path / "scratch")

    for name in ("linked.py", "folder", "module.py"):
        (packages / name).unlink()
    shutil.rmtree(packages / "hollow")
    (packages / "module.py").mkdir()
    (packages / "module.py" / "new.py").touch()
    (packages / "void" / "deep").mkdir(parents=True)
    repair.roll_back(python, tmp_path / "scratch")

    assert (packages / "linked.py").read_text(encoding="utf-8") == "x = 1\n"
    assert (packages / "folder").is_symlink()
    assert (packages / "hollow" / "inner").is_dir()
    assert not (packages / "void").exists()


def test_an_interpreter_that_cannot_run_is_told_with_the_way_out(tmp_path: Path, wheelhouse: Path) -> None:
    dangling = tmp_path / "python"
    dangling.symlink_to(tmp_path / "gone")
    with pytest.raises(ToolMissing, match="is not there or cannot be run") as caught:
        planned(dangling, wish(), wheelhouse, tmp_path)
    assert "make setup" in caught.value.remedy


def test_an_interpreter_that_tells_garbage_is_told(tmp_path: Path, wheelhouse: Path) -> None:
    lying = tmp_path / "python"
    lying.write_text('#!/bin/sh\nfor last; do :; done; echo garbage > "$last"\n', encoding="utf-8")
    lying.chmod(0o755)
    with pytest.raises(RepairFailed, match="told nothing that can be read"):
        planned(lying, wish(), wheelhouse, tmp_path)


def test_an_environment_of_the_system_is_refused(python: Path, tmp_path: Path, wheelhouse: Path) -> None:
    plan = planned(python, wish("beta==1.0"), wheelhouse, tmp_path)
    systems = plan.found.model_copy(update={"base_prefix": plan.found.prefix, "managed_by_system": True})
    with pytest.raises(RepairFailed, match="EXTERNALLY-MANAGED"):
        repair.apply(replace(plan, found=systems), tmp_path / "scratch")
    with pytest.raises(RepairFailed, match="EXTERNALLY-MANAGED"):
        repair.preview(replace(plan, found=systems), tmp_path / "scratch")
    assert not (python.parent.parent / snapshot.FOLDER).exists()


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """uv in an environment of its own, from the index that is set up."""
    python = venvs.make_venv(tmp_path_factory.mktemp("uv") / "venv", pip=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "uv"], check=True)
    return python.parent


@pytest.mark.full
def test_uv_mends_too_when_it_is_there(
    uv: Path, python: Path, tmp_path: Path, wheelhouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{uv}{os.pathsep}{os.environ['PATH']}")
    venvs.put(python, "alpha==1.0", "torchlet==1.0+cpu", source=wheelhouse)
    shutil.rmtree(venvs.site(python) / "torchlet")
    before, listing = venvs.freeze(python), tree(python)

    torn = planned(python, wish("torchlet==1.0"), wheelhouse, tmp_path, "auto")
    assert torn.installer.tool == "uv"
    assert repair.apply(torn, tmp_path / "scratch").faults_after == ()
    plan = planned(python, wish("alpha==2.0", "torchlet==1.0", accelerated=True), wheelhouse, tmp_path, "auto")
    assert "alpha==2.0" in repair.preview(plan, tmp_path / "scratch")
    assert repair.apply(plan, tmp_path / "scratch").faults_after == ()
    assert (venvs.said(python, "alpha"), venvs.said(python, "torchlet")) == ("2.0", "1.0")

    repair.roll_back(python, tmp_path / "scratch", snapshot.snapshots(python.parent.parent)[-1].snapshot_id)
    assert venvs.freeze(python) == before
    assert tree(python) == listing
