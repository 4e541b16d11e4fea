"""Makes checkpoints of bytes that mean nothing: what is tested is how they are kept."""

from __future__ import annotations

from pathlib import Path

from core.train import checkpoints
from core.train.checkpoints import Position, Taken, Training

FILES = {
    "adapter_model.safetensors": b"weights" * 50,
    "optimizer.safetensors": b"moments" * 50,
    "trainer_state.json": b"{}",
}
TRAINING = Training(config="c" * 64, rows="d" * 64, student="tiny")


def taken(step: int, training: Training = TRAINING, rollbacks: int = 0) -> Taken:
    return Taken(
        step=step,
        training=training,
        position=Position(epoch=0, micro_batches=step, rows=step, order_seed=1),
        rng={"torch": "e" * 64},
        versions={"torch": "2"},
        threads=2,
        device="cpu",
        dtype="torch.float32",
        rollbacks=rollbacks,
    )


def written(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def kept(tmp_path: Path, *steps: int, rollbacks: int = 0) -> Path:
    root = tmp_path / "checkpoints"
    for step in steps:
        checkpoints.keep(written(root / "writing" / f"step-{step}"), root, taken(step, rollbacks=rollbacks))
    return root
