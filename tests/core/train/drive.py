"""Trains the tiny student through the stage's verb; as a program, `drive.py CASE.json`, it can kill itself with SIGKILL."""

import json
import os
import signal
import sys
from pathlib import Path

from core.config import LabelConfig, TrainConfig
from core.contract import Stage
from core.data.record import LabeledRow, Message
from core.events import Event, ignore
from core.files import write_json_lines
from core.nouns import Adapter, LabeledDataset, ModelRef
from core.remote.home import at_home
from core.remote.settings import RemoteConfig
from core.stage import Facts, Order, produce
from core.train.train import train
from core.workspace import Workspace, open_workspace

NAMES = ["len", "open", "sorted", "print", "range", "list", "file", "name", "error", "value"]


def labeled(workspace: Workspace, rows: int, turns: int = 1) -> LabeledDataset:
    def chat(number: int, split: str) -> dict:
        first, second = NAMES[number % 10], NAMES[number * 7 % 10]
        messages = (
            *(Message(role=role, content=second) for _ in range(1, turns) for role in ("user", "assistant")),
            Message(role="user", content=f"What does {first} do with a {second}?"),
            Message(role="assistant", content=f"The {first} returns the {second}. " + "It reads lines. " * (number % 4)),
        )
        return LabeledRow(row_id=f"{split}-{number}", split=split, messages=messages).model_dump(mode="json")

    def work(content: Path) -> Facts:
        held_out = rows // 4
        write_json_lines(content / "train.jsonl", (chat(n, "train") for n in range(rows)))
        write_json_lines(content / "held_out.jsonl", (chat(n, "held_out") for n in range(rows, rows + held_out)))
        teacher = ModelRef(name="by hand", identity="by hand", parameters=None, licence="MIT")
        counts = {"train_rows": rows, "held_out_rows": held_out, "asked": 0, "reused": 0, "unanswered": 0}
        return Facts(own={"teacher": teacher, **counts, "prompt_tokens": 0, "completion_tokens": 0})

    order = Order(
        noun=LabeledDataset,
        stage=Stage.LABEL,
        version=1,
        config=LabelConfig(teacher="by hand"),
        inputs=(str(rows), *([str(turns)] if turns > 1 else [])),
    )
    return produce(order, workspace, ignore, work)


def run(case: dict) -> Adapter:
    workspace = open_workspace(Path(case["workspace"]))

    def hear(event: Event) -> None:
        with Path(case["events"]).open("a", encoding="utf-8") as stream:
            stream.write(event.model_dump_json() + "\n")
        if event.kind == case.get("kill_at", "train-step") and event.step >= case.get("kill_after", 10**9):
            os.kill(os.getpid(), signal.SIGKILL)

    config = TrainConfig.model_validate(case["config"])
    with at_home(RemoteConfig.model_validate(case.get("remote", {})), workspace, "drive", hear) as tree:
        return train(labeled(tree, case["rows"], case.get("turns", 1)), config, tree, hear, beside=Path(case["beside"]))


if __name__ == "__main__":
    run(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
