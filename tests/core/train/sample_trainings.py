"""Trainings as far as their files tell: published adapters without an adapter, and one that is under work."""

from __future__ import annotations

import os
from pathlib import Path

from core import config
from core.contract import Stage
from core.events import ignore
from core.nouns import Adapter, ModelRef
from core.stage import Facts, Order, produce
from core.train.metrics import Metrics, speed_key
from core.workspace import Workspace

TRAINING = "0123456789ab"
START = {"after_step": 0, "rows": 80, "device": "cpu", "device_name": "a CPU", "host": "h", "processes": 1}
START |= {"trainable_parameters": 5, "speed": "s"}


def trained(workspace: Workspace, *, host: str, device_name: str = "a CPU", steps: int = 40, **changes) -> Adapter:
    """Publish an adapter whose metrics tell of steps that took no time."""
    train = config.load("demo", [f"train.{key}={value}" for key, value in changes.items()]).train

    def work(content) -> Facts:
        metrics = Metrics(content / "metrics.jsonl", dict)
        about = {"device": "cpu", "device_name": device_name, "host": host, "processes": 1, "trainable_parameters": 5}
        metrics.start(after_step=0, steps=steps, rows=steps * 4, speed=speed_key(train), **about)
        for step in range(1, steps + 1):
            record = {"step": step, "loss": 1.0, "learning_rate": 1e-3, "grad_norm": 0.5, "trained_tokens": 30}
            metrics.write(record, tokens=40)
        ref = ModelRef(name="x", identity="x", parameters=None, licence="MIT")
        figures = {"base_held_out_loss": 1.0, "held_out_loss": 0.5, "trainable_parameters": 5, "trained_tokens": 9}
        own = {"student": ref, "steps": steps, "resumed_from_steps": (), **figures}
        return Facts(own=own, without_meaning=frozenset({"metrics.jsonl"}))

    order = Order(noun=Adapter, stage=Stage.TRAIN, version=1, config=train, inputs=(host,))
    return produce(order, workspace, ignore, work)


def staged(workspace: Workspace, training: str = TRAINING) -> Path:
    folder = workspace.staging(Stage.TRAIN, training)
    (folder / "content").mkdir(parents=True)
    return folder


def begun(workspace: Workspace, steps: int = 5) -> Metrics:
    """Write what a training writes, and hold it open as one that runs does."""
    folder = staged(workspace)
    (folder / "workers" / "0001").mkdir(parents=True)
    (folder / "workers" / "0001" / "request.json").write_text('{"student_name": "tiny"}', encoding="utf-8")
    metrics = Metrics(folder / "content" / "metrics.jsonl", lambda: {"rss_bytes": 7})
    metrics.held_out(0, 2.0)
    metrics.start(**START, steps=40)
    for step in range(1, steps + 1):
        record = {"step": step, "loss": 2.0 / step, "learning_rate": 1e-3, "grad_norm": 0.5, "trained_tokens": 30}
        metrics.write(record, tokens=40)
    return metrics


def close(metrics: Metrics) -> None:
    os.close(metrics._handle)  # what the kernel does when a training is killed
