"""Sealed folders and the choice of the checkpoint to resume from; no model is needed to break a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ArtifactError, ArtifactMissing, FileTampered, ManifestBroken
from core.train import checkpoints, sealed

FILES = {"adapter_model.safetensors": b"weights" * 50, "optimizer.pt": b"moments" * 50, "trainer_state.json": b"{}"}


def written(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def kept(tmp_path: Path, *steps: int) -> Path:
    root = tmp_path / "checkpoints"
    for step in steps:
        checkpoints.keep(written(root / "writing" / f"checkpoint-{step}"), root, step, {"torch": "2"})
    (tmp_path / "quarantine").mkdir(exist_ok=True)
    return root


def test_a_checkpoint_says_what_wrote_it_and_only_the_last_two_stay(tmp_path):
    root = kept(tmp_path, 5, 10, 15)
    assert sorted(path.name for path in root.glob("step-*")) == ["step-00000010", "step-00000015"]
    assert sealed.check(root / "step-00000015").about == {"step": "15", "torch": "2"}
    assert checkpoints.newest_verified(root, tmp_path / "quarantine") == (root / "step-00000015", [])


def test_what_the_trainer_writes_beside_its_state_is_not_kept(tmp_path):
    folder = written(tmp_path / "writing")
    (folder / "training_args.bin").write_bytes(b"a pickle nobody needs")
    target = checkpoints.keep(folder, tmp_path, 3, {})
    assert {path.name for path in target.iterdir()} == {*FILES, "manifest.json"}


def test_a_step_written_again_replaces_the_one_before(tmp_path):
    root = kept(tmp_path, 5, 5)
    assert [path.name for path in root.glob("step-*")] == ["step-00000005"]


def test_without_a_checkpoint_there_is_nothing_to_resume_from(tmp_path):
    assert checkpoints.newest_verified(tmp_path / "nowhere", tmp_path) == (None, [])


BREAKAGES: dict[str, tuple[Callable[[Path], object], type[ArtifactError]]] = {
    "a truncated file": (lambda f: (f / "optimizer.pt").write_bytes(b"short"), FileTampered),
    "a flipped byte": (lambda f: (f / "optimizer.pt").write_bytes(b"Moments" + b"moments" * 49), FileTampered),
    "a missing file": (lambda f: (f / "adapter_model.safetensors").unlink(), FileTampered),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), ArtifactMissing),
    "half a manifest": (lambda f: (f / "manifest.json").write_text('{"files": ['), ManifestBroken),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_checkpoint_gives_way_to_the_one_before(tmp_path, breakage):
    breaks, error = BREAKAGES[breakage]
    root = kept(tmp_path, 5, 10)
    breaks(root / "step-00000010")
    with pytest.raises(error):
        sealed.check(root / "step-00000010")
    newest, broken = checkpoints.newest_verified(root, tmp_path / "quarantine")
    assert newest == root / "step-00000005"
    assert [one.step for one in broken] == [10]
    assert broken[0].moved_to.is_dir()
    assert broken[0].moved_to.parent == tmp_path / "quarantine"


@settings(deadline=None, max_examples=40)  # a sync to disk takes what it takes
@given(st.sampled_from(sorted(FILES)), st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_of_any_file_is_found(tmp_path_factory, name, position, bit):
    folder = written(tmp_path_factory.mktemp("sealed") / "folder")
    sealed.seal(folder, {})
    data = bytearray((folder / name).read_bytes())
    data[position % len(data)] ^= 1 << bit
    (folder / name).write_bytes(data)
    with pytest.raises(FileTampered):
        sealed.check(folder)
