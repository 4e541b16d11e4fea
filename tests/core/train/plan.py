"""Plans for forks.py: the settings they share, carrying one out, and what became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
CONFIG = {
    "student": "tiny",
    "device": "cpu",
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 3,
    "learning_rate": 5e-3,
    "lora": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "checkpoint_steps": 8,
    "eval_steps": 12,
    "seed": 11,
}
ROWS, STEPS = 40, 60  # three epochs, two rows a step


@dataclass
class Trained:
    """What became of a plan's runs, by the name of their folder, in the order they ran."""

    folder: Path
    ended: dict[str, list[dict[str, Any]]]

    def outcome(self, name: str) -> dict[str, Any]:
        """Return what a training left behind that must not depend on how often it was stopped."""
        folder = self.folder / name
        kept = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "steps.jsonl", "held_out_losses.jsonl")
        written = {path: (folder / path).read_bytes() for path in kept if (folder / path).exists()}
        return {**written, "result": self.ended[name][-1]["result"]}


def carry_out(student: Path, folder: Path, runs: list[tuple[str, dict[str, Any]]]) -> Trained:
    folder.mkdir(parents=True, exist_ok=True)
    plan = [
        {
            "folder": str(folder / name),
            "student": str(student),
            "rows": ROWS,
            **asked,
            "config": {**CONFIG, **asked.get("config", {})},
        }
        for name, asked in runs
    ]
    for asked in plan:
        if "copy_of" in asked:
            asked["copy_of"] = str(folder / asked["copy_of"])
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "forks.py"), str(folder / "plan.json")],
        capture_output=True,
        text=True,
        check=False,
        # threads that wait asleep: beside another load two that spin take a hundred times as long for so small a model
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE"},
    )
    assert done.returncode == 0, done.stderr
    ended: dict[str, list[dict[str, Any]]] = {}
    for (name, _), how in zip(runs, json.loads((folder / "done.json").read_text(encoding="utf-8")), strict=True):
        ended.setdefault(name, []).append(how)
    return Trained(folder, ended)
