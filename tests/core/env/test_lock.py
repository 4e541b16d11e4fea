"""Locking a real environment and checking it: hashes are of the very files installed, offline from a folder of wheels."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.env import lock
from core.env.installed import Source
from core.env.lock import DifferenceKind
from core.errors import BadConfig, RepairFailed
from core.files import sha256_of
from tests.core.env import venvs

RIGHT = lock.Verified(differences=(), unchecked=())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An environment with three packages, and the folder they came from."""
    folder = tmp_path_factory.mktemp("lock")
    wheels = folder / "wheels"
    for name, version in (("alpha", "1.0"), ("Be_ta", "2.0+cpu"), ("gamma", "3.0")):
        inner = {f"{name}/_vendor/other-1.dist-info/RECORD": b"other.py,sha256=xyz,1\n"}  # as setuptools carries some
        venvs.make_wheel(wheels, name, version, script=name == "alpha", extra=inner)
    python = venvs.make_venv(folder / "venv")
    venvs.put(python, "alpha", "Be_ta==2.0+cpu", source=wheels)
    direct = wheels / "gamma-3.0-py3-none-any.whl"
    venvs.put(python, str(direct), source=wheels)  # from a file: pip writes its hash down
    return python, wheels


@pytest.fixture(autouse=True)
def nothing_but_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def hashes(wheels: Path) -> dict[str, tuple[str, ...]]:
    names = {"alpha": "alpha-1.0", "be-ta": "Be_ta-2.0+cpu", "gamma": "gamma-3.0"}
    return {key: (sha256_of(wheels / f"{stem}-py3-none-any.whl"),) for key, stem in names.items()}


def test_a_lock_from_a_wheelhouse_holds_the_hashes_of_the_installed_files(place: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = place
    found = venvs.looked(python, tmp_path)
    locked = lock.lock(found, Source(wheels), tmp_path)
    assert {one.name: one.sha256 for one in locked.packages} == hashes(wheels)

    path = tmp_path / "requirements.lock"
    path.write_text(lock.render(locked, found), encoding="utf-8")
    assert lock.read_lock(path).packages == locked.packages
    assert lock.verify(found, lock.read_lock(path), wheels) == RIGHT


def test_a_lock_from_the_index_asks_pip_without_installing(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, wheels = place
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    before = venvs.freeze(python)
    locked = lock.lock(venvs.looked(python, tmp_path), Source(), tmp_path)
    assert {one.name: one.sha256 for one in locked.packages} == hashes(wheels)
    assert venvs.freeze(python) == before


def test_pip_installs_a_lock_in_its_strictest_mode(place: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = place
    found = venvs.looked(python, tmp_path)
    path = tmp_path / "requirements.lock"
    path.write_text(lock.render(lock.lock(found, Source(wheels), tmp_path), found), encoding="utf-8")
    other = venvs.make_venv(tmp_path / "other")
    argv = [sys.executable, "-m", "pip", "--python", str(other), "install", "--quiet", "--find-links", str(wheels)]
    subprocess.run([*argv, "--require-hashes", "--no-deps", "-r", str(path)], check=True, capture_output=True)
    assert lock.verify(venvs.looked(other, tmp_path), lock.read_lock(path), wheels) == RIGHT


def test_a_package_that_no_file_stands_for_is_told(place: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = place
    fewer = tmp_path / "fewer"
    shutil.copytree(wheels, fewer)
    (fewer / "alpha-1.0-py3-none-any.whl").unlink()
    other = venvs.make_wheel(fewer, "alpha", "1.0", modules=2)  # the same version, another file
    assert other.exists()
    with pytest.raises(RepairFailed, match="1 of 3 packages have no file to hash: alpha"):
        lock.lock(venvs.looked(python, tmp_path), Source(fewer), tmp_path)
    with pytest.raises(RepairFailed, match="pip finds no file"):
        lock.lock(venvs.looked(python, tmp_path), Source(), tmp_path)


def test_every_kind_of_difference_is_told(place: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = place
    shutil.copytree(python.parent.parent, tmp_path / "venv", symlinks=True)
    mine = tmp_path / "venv" / "bin" / "python"
    locked = lock.lock(venvs.looked(mine, tmp_path), Source(wheels), tmp_path)
    other = "0" * 64
    asked = [
        lock.Locked(name="alpha", version="9.0", sha256=(other,)),
        lock.Locked(name="gamma", version="3.0", sha256=(other,)),
        lock.Locked(name="delta", version="1.0", sha256=(other,)),
    ]
    told = lock.verify(venvs.looked(mine, tmp_path), lock.Lock(packages=tuple(asked), left_out={})).differences
    assert [(one.kind, one.name) for one in told] == [
        (DifferenceKind.MISSING, "delta"),
        (DifferenceKind.VERSION, "alpha"),
        (DifferenceKind.ARCHIVE, "gamma"),
        (DifferenceKind.EXTRA, "be-ta"),
    ]
    assert [one.name for one in lock.blocking(told)] == ["delta", "alpha", "gamma"]

    (venvs.site(mine) / "alpha/__init__.py").unlink()
    (broken,) = lock.verify(venvs.looked(mine, tmp_path), locked).differences
    assert (broken.kind, broken.name) == (DifferenceKind.BROKEN, "alpha")


def test_a_file_of_the_same_version_but_other_content_is_told_with_a_wheelhouse(
    place: tuple[Path, Path], tmp_path: Path
) -> None:
    python, _ = place
    found = venvs.looked(python, tmp_path)
    rebuilt = tmp_path / "rebuilt"
    wheel = venvs.make_wheel(rebuilt, "alpha", "1.0", modules=3)
    asked = lock.Lock(packages=(lock.Locked(name="alpha", version="1.0", sha256=(sha256_of(wheel),)),), left_out={})
    assert [one.kind for one in lock.blocking(lock.verify(found, asked, rebuilt).differences)] == [DifferenceKind.ARCHIVE]
    (rebuilt / "alpha-1.0-py3-none-any.whl").write_bytes(b"no zip")
    assert not lock.same_files(found.distributions[0], rebuilt / "alpha-1.0-py3-none-any.whl")


@pytest.mark.parametrize(
    "line",
    [
        "alpha",
        "alpha==1.0",
        "alpha>=1.0 --hash=sha256:" + "0" * 64,
        "alpha==1.* --hash=sha256:" + "0" * 64,
        "alpha==1.0 --hash=sha256:00",
        "alpha==1.0 --hash=md5:" + "0" * 64,
        "--index-url https://elsewhere.example/simple",
        "-e .",
        "alpha @ https://elsewhere.example/alpha.whl --hash=sha256:" + "0" * 64,
    ],
)
def test_a_line_that_is_no_exact_hashed_package_is_named(line: str) -> None:
    with pytest.raises(BadConfig, match="entry 2"):
        lock.parse_lock(f"# a comment\n{line}\n", "file")


def test_a_line_may_be_continued_and_hold_several_hashes() -> None:
    text = f"a.b==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\n"
    (one,) = lock.parse_lock(text, "file").packages
    assert (one.name, one.version, one.sha256) == ("a-b", "1.0", ("0" * 64, "1" * 64))


@given(st.text(max_size=200))
def test_any_text_is_a_lock_or_a_configuration_error(text: str) -> None:
    with contextlib.suppress(BadConfig):
        assert lock.parse_lock(text, "file").packages


def test_a_missing_an_empty_and_an_endless_file_are_no_lock(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="is not there"):
        lock.read_lock(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(BadConfig, match="locks no package"):
        lock.read_lock(tmp_path / "empty")
    with (tmp_path / "endless").open("wb") as stream:
        stream.truncate(lock.MAX_LOCK_BYTES + 1)
    with pytest.raises(BadConfig, match="bytes"):
        lock.read_lock(tmp_path / "endless")


def test_a_file_changed_in_place_is_told_though_its_size_is_right(place: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = place
    shutil.copytree(python.parent.parent, tmp_path / "venv", symlinks=True)
    mine = tmp_path / "venv" / "bin" / "python"
    locked = lock.lock(venvs.looked(mine, tmp_path), Source(wheels), tmp_path)
    (venvs.site(mine) / "alpha/__init__.py").write_text('version = "6.6"\n', encoding="utf-8")

    for folder in (wheels, None):
        (one,) = lock.verify(venvs.looked(mine, tmp_path), locked, folder).differences
        assert (one.kind, one.name, one.blocks) == (DifferenceKind.CHANGED, "alpha", True)
        assert one.evidence == "alpha/__init__.py is not as its RECORD has it"


def test_a_hash_that_nothing_here_can_tell_is_not_called_right(place: tuple[Path, Path], tmp_path: Path) -> None:
    python, wheels = place
    found = venvs.looked(python, tmp_path)
    locked = lock.lock(found, Source(wheels), tmp_path)
    wrong = [one.model_copy(update={"sha256": ("0" * 64,)}) for one in locked.packages if one.name == "alpha"]
    rest = [one for one in locked.packages if one.name != "alpha"]

    verified = lock.verify(found, lock.Lock(packages=(*wrong, *rest), left_out={}))

    assert (verified.differences, verified.unchecked) == ((), ("alpha", "be-ta"))  # gamma's is written down by pip
    assert lock.verify(found, lock.Lock(packages=(*wrong, *rest), left_out={}), wheels).unchecked == ("alpha",)
