"""Labels a dataset in a workspace with a second home; argv: workspace, dataset, base URL, section remote, sync_s. Killed by tests."""

from __future__ import annotations

import sys
from pathlib import Path

from core.config import LabelConfig
from core.contract import Stage
from core.events import Event, Note
from core.label.label import label
from core.nouns import Dataset
from core.remote.home import at_home
from core.remote.settings import RemoteConfig
from core.workspace import open_workspace, read_manifest


def tell(event: Event) -> None:
    if isinstance(event, Note):
        sys.stderr.write(f"{event.text}\n")


if __name__ == "__main__":
    root, artifact_id, base_url, remote, sync_s = sys.argv[1:]
    config = LabelConfig(
        teacher="qwen3-8b", backend="openai", base_url=base_url, max_tokens=40, concurrency=2, sync_s=float(sync_s)
    )
    with at_home(RemoteConfig.model_validate_json(remote), open_workspace(Path(root)), "child", tell) as tree:
        label(read_manifest(tree, Stage.DATA, artifact_id, Dataset), config, tree, tell)
