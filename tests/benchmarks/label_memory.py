"""Labels so many prompts with a teacher that answers at once and prints the peak of its memory; argv: workspace, prompts, keep."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core.config import DataConfig, LabelConfig
from core.contract import Stage
from core.data.record import PromptRow
from core.data.rows_file import write_rows
from core.events import ignore
from core.files import write_json_lines
from core.label.label import label
from core.label.request import Reply, Request
from core.nouns import Dataset
from core.stage import Facts, Order, produce
from core.workspace import Workspace, open_workspace


class AtOnce:
    """A teacher without a wait; one that keeps what it was asked is broken on purpose."""

    concurrency = 32
    batches = False

    def __init__(self, keep: bool) -> None:
        self._kept: list[Request] | None = [] if keep else None

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply]]:
        for request in requests:
            if self._kept is not None:
                self._kept.append(request)
            text = f"An answer to {request.messages[-1].content}"
            yield request, Reply(text=text, finish_reason="stop", prompt_tokens=50, completion_tokens=20, latency_ms=1.0)

    def close(self) -> None:
        return


def _rows(prompts: int) -> Iterator[dict[str, Any]]:
    for number in range(prompts):
        user = f"Question {number:07}? {'some words of a usual length ' * 6}"
        split = "held_out" if number % 10 == 9 else "train"
        yield PromptRow(row_id=f"r{number:07}", split=split, user=user, system=None, context=None).model_dump(mode="json")


def _dataset(workspace: Workspace, prompts: int) -> Dataset:
    def work(content: Path) -> Facts:
        write_rows(content / "rows.parquet", _rows(prompts))
        write_json_lines(content / "rejects.jsonl", [])
        counts = {"rows": prompts, "train_rows": prompts - prompts // 10, "held_out_rows": prompts // 10, "rejected": 0}
        return Facts(own={"sources": (), "findings": (), **counts})

    order = Order(noun=Dataset, stage=Stage.DATA, version=1, config=DataConfig(sources=("test",)), inputs=(str(prompts),))
    return produce(order, workspace, ignore, work)


def main(root: str, prompts: str, keep: str) -> None:
    workspace = open_workspace(Path(root))
    config = LabelConfig(teacher="qwen3-8b", backend="openai", base_url="http://127.0.0.1:1/v1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.label.label.open_teacher", lambda *_: AtOnce(keep == "keep"))
        artifact = label(_dataset(workspace, int(prompts)), config, workspace)
    assert artifact.asked == int(prompts)
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
