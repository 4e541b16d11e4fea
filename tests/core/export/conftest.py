"""A student, its labels and a real PEFT adapter as published artifacts, so that export has true parents."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from core import catalogue, models
from core.config import ExportConfig, LabelConfig, TrainConfig
from core.contract import Stage
from core.data.record import LabeledRow, Message
from core.events import Event, ignore
from core.export.export import export
from core.files import write_json_lines
from core.nouns import Adapter, GgufModel, LabeledDataset, ModelRef
from core.stage import Facts, Order, produce
from core.workspace import Workspace, open_workspace

BUILDER = Path(__file__).parent / "build_adapter.py"
ANSWERS = (
    ("What does len return?", "len returns the number of items of a container."),
    ("What does open do?", "It opens a file and returns a file object."),
    ("What does sorted return?", "A new list with the items in ascending order."),
    ("What does os.getcwd return?", "The current working directory as a string."),
    ("What does zip do?", "It iterates over several iterables in parallel and stops at the shortest of them."),
    ("What does str.split return?", "A list of the words in the string, cut at the separator that was given."),
    ("What does abs return?", "The absolute value of a number, which may be an integer or a float."),
    (
        "What does os.walk do?",
        "It yields, for every folder below one, its path, the names of its folders and those of its files.",
    ),
    (
        "What does str.join do?",
        "It puts strings together into one, with the string it is called on between each two of them.",
    ),
    (
        "What does dict.get return?",
        "The value that belongs to a key, or a default where the key is not there; it never raises.",
    ),
    (
        "What does print do?",
        "It writes its arguments as text to a stream, with a space between them and a line break at the end.",
    ),
    ("What does enumerate do?", "It counts the items of an iterable and gives each one beside its number."),
)
ROWS = tuple(
    LabeledRow(
        row_id=f"row-{number}",
        split="held_out",
        messages=(Message(role="user", content=question), Message(role="assistant", content=answer)),
    )
    for number, (question, answer) in enumerate(ANSWERS)
)


@dataclass(frozen=True)
class Trained:
    """A student with an adapter in a workspace; `beside` is the folder with its model card."""

    workspace: Workspace
    adapter: Adapter
    beside: Path

    def export(self, config: ExportConfig, heard: list[Event] | None = None) -> GgufModel:
        on_event = ignore if heard is None else heard.append
        return export(self.adapter, config, self.workspace, on_event, self.beside)


def publish_adapter(root: Path, base: Path, steps: int) -> Trained:
    """Train an adapter on a Hugging Face folder and publish it with its labels in a new workspace."""
    workspace, beside = open_workspace(root / "workspace"), root / "profile"
    card = beside / "models" / "pupil.yaml"
    card.parent.mkdir(parents=True)
    card.write_text(
        f"roles: [student]\nsource: {{kind: local, path: {base}}}\nparameters: null\nhidden_size: null\n"
        "licence: MIT\nchat_template: chatml\nmemory_mib: null\n"
    )
    pupil = models.ref(catalogue.model("pupil", beside))
    labeled = _publish_labels(workspace, pupil)
    order = Order(Adapter, Stage.TRAIN, 1, TrainConfig(student="pupil"), parents=(labeled.as_parent(),))

    def work(content: Path) -> Facts:
        _build_adapter(base, content / "adapter", workspace.folder(Stage.LABEL, labeled.artifact_id), steps)
        own = {"student": pupil, "base_held_out_loss": 9.0, "held_out_loss": 8.0, "steps": steps}
        return Facts({**own, "trainable_parameters": 1, "trained_tokens": 1, "resumed_from_steps": ()})

    return Trained(workspace, produce(order, workspace, ignore, work), beside)


def _publish_labels(workspace: Workspace, teacher: ModelRef) -> LabeledDataset:
    def work(content: Path) -> Facts:
        write_json_lines(content / "held_out.jsonl", (row.model_dump(mode="json") for row in ROWS))
        counts = {"train_rows": 0, "held_out_rows": len(ROWS), "unanswered": 0, "asked": 0, "reused": 0}
        return Facts({"teacher": teacher, **counts, "prompt_tokens": 0, "completion_tokens": 0})

    return produce(Order(LabeledDataset, Stage.LABEL, 1, LabelConfig(teacher="pupil")), workspace, ignore, work)


def _build_adapter(base: Path, target: Path, labels: Path, steps: int) -> None:
    argv = [sys.executable, str(BUILDER), str(base), str(target), str(labels / "held_out.jsonl"), str(steps)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def tiny_trained(tiny_smollm_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A tiny Llama with SmolLM2's tokenizer that has learned its answers, so that coarse weights hurt it."""
    return publish_adapter(tmp_path_factory.mktemp("tiny-trained"), tiny_smollm_student, steps=180)
