"""Runs the whole job as a user does, in a process of its own, and kills it at a moment that its events name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.contract import CHAIN, Stage
from core.nouns import NOUNS
from core.workspace import Workspace, artifacts, load, open_workspace

ROOT = Path(__file__).parents[2]
SPEEDS = {"pp_tps", "tg_tps"}

# The demo, as small as its stages allow. The gate on the held-out loss is wide open: 2 steps teach nothing.
SMALL = """
description: the demo, small
env: {skip: [trains, converts]}
data: {sources: ["builtin:python-docs"], builtin_rows: 8}
label: {teacher: smollm2-135m-instruct, context_distillation: true, max_failed_share: 0.6}
train:
  student: smollm2-135m-instruct
  device: cpu
  num_train_epochs: 1
  checkpoint_steps: 1
  min_gain: -10
export: {quantisations: [Q8_0, Q4_0], max_loss_increase: 10}
bench: {device: local, n_prompt: 16, n_gen: 4, repetitions: 1, process_starts: 1}
"""

_END_S = 30  # seconds

Told = Callable[[Mapping[str, Any]], bool]


def progress(stage: str, task: str, done: float) -> Told:
    """Return whether an event says that a task of a stage has come that far."""
    return lambda event: (
        event["kind"] == "progress" and event["stage"] == stage and event["task"].startswith(task) and event["done"] >= done
    )


def kind(name: str, stage: str | None = None) -> Told:
    """Return whether an event is of a kind, and of a stage where one is named."""
    return lambda event: event["kind"] == name and (stage is None or event["stage"] == stage)


KILLS: dict[str, Told] = {
    "label": progress("label", "asking", 3),
    "train": progress("train", "train", 1),
    "export": progress("export", "quantise", 1),
    "bench": progress("bench", "llama-bench", 1),
    "ingest": kind("stage-started", "ingest"),
    "promote": kind("promoted"),
}


@dataclass(frozen=True)
class WholeJob:
    """One profile in one workspace; `environment` is added to the process's own."""

    profile: str
    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> Workspace:
        """Return the workspace."""
        return open_workspace(self.root)

    def command(self, *arguments: str) -> list[str]:
        """Return the argument list of a run with its answer as JSON."""
        named = ["--profile", self.profile, "--workspace", str(self.root), "--json"]
        return [sys.executable, "-m", "flows.cli.main", "run", *named, *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run to the end, whatever it is."""
        return subprocess.run(self.command(*arguments), **self._place(), capture_output=True, text=True, check=False)

    def finish(self, *arguments: str) -> dict[str, Any]:
        """Run to a good end and return the document."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr[-3000:]
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def kill_at(self, told: Told, number: signal.Signals = signal.SIGKILL) -> int:
        """Start, send the signal as soon as an event says so, and return the exit status."""
        before = set(self.root.glob("runs/*"))
        with subprocess.Popen(
            self.command(),
            **self._place(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as child:
            for event in self._events(before, child):
                if told(event):
                    os.killpg(child.pid, number)  # as a terminal does: every process of the group hears it
                    return child.wait(_END_S)
        raise AssertionError(f"the run ended with {child.returncode} before it was killed")

    def _place(self) -> dict[str, Any]:
        return {
            "cwd": ROOT,
            "env": {**os.environ, "PYTHONPATH": str(ROOT), **self.environment, "EDGEKILN_TEST_JOB": str(self.root)},
        }

    def _events(self, before: set[Path], child: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        seen = 0
        while child.poll() is None:
            time.sleep(0.002)
            for folder in set(self.root.glob("runs/*")) - before:
                path = folder / "events.jsonl"
                lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
                for line in lines[seen:]:
                    yield json.loads(line)
                seen = len(lines)


def verify_everything(workspace: Workspace) -> None:
    """Load every published artifact with every hash; whatever lies among them without a manifest is half an artifact."""
    for stage in CHAIN:
        folders = {path.name for path in (workspace.root / "artifacts" / stage.value).glob("*")}
        whole = {artifact.artifact_id for artifact in artifacts(workspace, stage)}
        assert folders == whole
        for artifact_id in whole:
            load(workspace, stage, artifact_id, NOUNS[stage])


def table_without_speeds(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the closing table's rows without what is measured anew."""
    return [{key: cell for key, cell in row.items() if key not in SPEEDS} for row in document["result"]["rows"]]


def digests(job: WholeJob, document: Mapping[str, Any]) -> dict[str, str]:
    """Return the content digests of what a run made, but for the stages that measure this machine."""
    made = {Stage(name): artifact_id for name, artifact_id in document["run"]["artifacts"].items()}
    return {
        stage.value: load(job.workspace, stage, made[stage], NOUNS[stage]).content_digest
        for stage in (Stage.DATA, Stage.LABEL, Stage.TRAIN, Stage.EXPORT)
    }
