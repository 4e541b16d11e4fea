"""`edgekiln search` as a user runs it: a profile with a space, the flow on a passing server, the table, the winner's file."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from core import config

ROOT = Path(__file__).parents[3]
BUILDER = ROOT / "tests/core/build_tiny_student.py"
WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "green",
    "seven",
    "little",
    "house",
    "bright",
    "never",
    "under",
    "music",
    "table",
    "window",
    "garden",
    "silver",
]
CARD = """
roles: [student]
source: {{kind: local, path: {student}}}
parameters: 100000
hidden_size: 64
licence: MIT
chat_template: chatml
memory_mib: 1
"""
PROFILE = """
description: a tiny search
env: {skip: [trains, converts]}
data: {sources: [rows.jsonl], held_out_share: 0.3}
label: {teacher: smollm2-135m-instruct}  # every row has its answer, so it is never asked
train: {student: tiny, device: cpu, per_device_train_batch_size: 2, num_train_epochs: 1}
search:
  trials: 2
  subset_rows: 12
  range_test: {steps: 10}
  space: {learning_rate: {low: 1.0e-3, high: 2.0e-2}, r: [2, 4], lora_alpha: null, effective_batch: [2, 4]}
"""


def edgekiln(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    told = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "PREFECT_HOME": str(folder / "p")}
    argv = [sys.executable, "-m", "flows.cli.main", *arguments]
    return subprocess.run(argv, cwd=folder, env={**os.environ, **told}, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    subprocess.run([sys.executable, str(BUILDER), str(folder / "student")], check=True, capture_output=True)
    (folder / "models").mkdir()
    (folder / "models" / "tiny.yaml").write_text(CARD.format(student=folder / "student"), encoding="utf-8")
    (folder / "mine.yaml").write_text(PROFILE, encoding="utf-8")
    drawn = random.Random(1)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(40):
            prompt, answer = (" ".join(drawn.sample(WORDS, count)) for count in (6, 9))
            row = {"user": f"Question {number}: what about {prompt}?", "completion": f"It is {answer}."}
            stream.write(json.dumps(row) + "\n")
    return folder


@pytest.mark.full
@pytest.mark.prefect
def test_a_search_ends_with_its_trials_and_a_file_that_a_run_takes(project: Path) -> None:
    done = edgekiln(project, "search", "--profile", "mine.yaml", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [row["outcome"] for row in document["trials"]["rows"]] == ["finished", "finished"]
    winner = next((project / ".edgekiln/artifacts/search").glob("*/winner.yaml"))
    taken = config.load(str(project / "mine.yaml"), [str(winner)])
    assert taken.train.lora.r == document["search"]["winner"]["lora"]["r"]
    again = edgekiln(project, "search", "--profile", "mine.yaml")
    assert again.returncode == 0, again.stderr
    assert "verified and reused" in again.stderr
    assert f"trial {document['search']['best_trial']} is the best" in again.stdout
    assert "winner.yaml" in again.stdout
    shown = edgekiln(project, "show", document["search"]["artifact_id"])
    assert "held_out_loss" in shown.stdout
    refused = edgekiln(project, "search", "--profile", "mine.yaml", "--set", "train.min_gain=50")
    assert refused.returncode == 5
    assert "gain is" in refused.stderr


def test_joining_where_no_search_runs_and_settings_beside_join_are_refused(tmp_path: Path) -> None:
    lonely = edgekiln(tmp_path, "search", "--join")
    assert lonely.returncode == 2
    assert "no search is at its trials in" in lonely.stderr
    changed = edgekiln(tmp_path, "search", "--join", "--trials", "3", "--set", "search.seed=4")
    assert changed.returncode == 2
    assert "search.seed=4, search.trials=3 cannot be changed" in changed.stderr
