"""Checkpoints and sealed folders: no model is needed to break a file."""

from __future__ import annotations

import errno
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ArtifactError, ArtifactMissing, FileTampered, ManifestBroken
from core.train import checkpoints, sealed
from core.train.checkpoints import Training

_spec = importlib.util.spec_from_file_location("sample_checkpoints", Path(__file__).parent / "sample_checkpoints.py")
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)
FILES, TRAINING, kept, taken, written = sample.FILES, sample.TRAINING, sample.kept, sample.taken, sample.written


def newest(root: Path, training: Training = TRAINING) -> tuple[Path | None, list[checkpoints.Broken]]:
    return checkpoints.newest_verified(root, root.parent / "quarantine", training)


def test_a_checkpoint_says_when_it_was_taken_and_the_newest_is_found(tmp_path):
    root = kept(tmp_path, 5, 15, 10)
    assert [path.name for path in checkpoints.all_in(root)] == ["step-00000005", "step-00000010", "step-00000015"]
    assert checkpoints.verify(root / "step-00000015", TRAINING).taken == taken(15)
    assert newest(root) == (root / "step-00000015", [])
    assert list((root / "writing").iterdir()) == []


def test_a_step_written_again_replaces_the_one_before(tmp_path):
    root = kept(tmp_path, 5)
    first = (root / "step-00000005").stat().st_ino
    kept(tmp_path, 5)
    assert [path.name for path in root.glob("step-*")] == ["step-00000005"]
    assert (root / "step-00000005").stat().st_ino != first
    assert list((root / "writing").iterdir()) == []


def test_without_a_checkpoint_there_is_nothing_to_resume_from(tmp_path):
    assert newest(tmp_path / "nowhere") == (None, [])


@pytest.mark.parametrize("name", ["config", "rows", "student"])
def test_a_checkpoint_of_another_training_is_never_gone_on_from(tmp_path, name):
    root = kept(tmp_path, 5)
    found, (broken,) = newest(root, TRAINING.model_copy(update={name: "a" * 64}))
    assert found is None
    assert f"it belongs to another training (other {name})" in broken.reason


def changed(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_to_what_cannot_be_read(path: Path) -> None:
    path.unlink()
    path.symlink_to("/proc/self/mem")  # EIO at its beginning, as from a bad sector


BREAKAGES: dict[str, tuple[Callable[[Path], object], type[ArtifactError]]] = {
    "a truncated file": (lambda f: (f / "optimizer.safetensors").write_bytes(b"short"), FileTampered),
    "a flipped byte": (lambda f: changed(f / "optimizer.safetensors", b"moments", b"Moments"), FileTampered),
    "a missing file": (lambda f: (f / "adapter_model.safetensors").unlink(), FileTampered),
    "a file nobody wrote": (lambda f: (f / "optimizer.pt").write_bytes(b"a pickle"), FileTampered),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), ArtifactMissing),
    "an empty manifest": (lambda f: (f / "manifest.json").write_bytes(b""), ManifestBroken),
    "half a manifest": (lambda f: (f / "manifest.json").write_text('{"manifest": {"files": ['), ManifestBroken),
    "a manifest that is no object": (lambda f: (f / "manifest.json").write_text("[1]"), ManifestBroken),
    "a deep manifest": (lambda f: (f / "manifest.json").write_text("[" * 100_000), ManifestBroken),
    "a huge manifest": (lambda f: (f / "manifest.json").write_text(" " * 3_000_000), ManifestBroken),
    "another step": (lambda f: changed(f / "manifest.json", b'"step":10', b'"step":11'), ManifestBroken),
    "another position": (lambda f: changed(f / "manifest.json", b'"epoch":0', b'"epoch":1'), ManifestBroken),
    "a manifest that is a folder": (lambda f: put_folder(f / "manifest.json"), FileTampered),
    "a manifest the disk does not give": (lambda f: link_to_what_cannot_be_read(f / "manifest.json"), FileTampered),
    "the folder of another step": (lambda f: f.rename(f.with_name("step-00000012")), ManifestBroken),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path, breakage):
    breaks, error = BREAKAGES[breakage]
    root = kept(tmp_path, 5, 10)
    breaks(root / "step-00000010")
    folder = checkpoints.all_in(root)[-1]
    with pytest.raises(error):
        checkpoints.verify(folder, TRAINING)
    found, (broken,) = newest(root)
    assert found == root / "step-00000005"
    assert broken.step == checkpoints.step_of(folder)
    assert broken.moved_to.is_dir()
    assert broken.moved_to.parent == tmp_path / "quarantine"
    assert newest(root) == (found, [])


def test_a_file_that_the_disk_does_not_give_is_a_broken_one_and_too_many_open_files_are_not(tmp_path, monkeypatch):
    root = kept(tmp_path, 5, 10)
    sound = sealed.sha256_of

    def failing(number: int) -> Callable[[Path], str]:
        def read(path: Path) -> str:
            if path.parent.name == "step-00000010" and path.name == "optimizer.safetensors":
                raise OSError(number, os.strerror(number))
            return sound(path)

        return read

    monkeypatch.setattr(sealed, "sha256_of", failing(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        newest(root)
    monkeypatch.setattr(sealed, "sha256_of", failing(errno.EIO))
    found, (broken,) = newest(root)
    assert found == root / "step-00000005"
    assert broken.reason.endswith("optimizer.safetensors cannot be read: Input/output error")


@settings(deadline=None, max_examples=60)  # a sync to disk takes what it takes
@given(st.sampled_from([*sorted(FILES), "manifest.json"]), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit_of_any_file_is_found(tmp_path_factory, name, place, bit):
    root = kept(tmp_path_factory.mktemp("flipped"), 5)
    path = root / "step-00000005" / name
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises((FileTampered, ManifestBroken)):
        checkpoints.verify(path.parent, TRAINING)


def test_a_sealed_folder_says_what_wrote_it_and_what_is_wrong_with_it(tmp_path):
    folder = written(tmp_path / "sealed")
    sealed.seal(folder, {"torch": "2"})
    assert sealed.check(folder).about == {"torch": "2"}
    changed(folder / "trainer_state.json", b"{}", b"[]")
    with pytest.raises(FileTampered, match=r"trainer_state\.json has sha256"):
        sealed.check(folder)
    (folder / "manifest.json").write_text('{"files": [')
    with pytest.raises(ManifestBroken):
        sealed.check(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactMissing):
        sealed.check(folder)
