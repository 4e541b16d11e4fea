"""Identity, reuse, tampering, force, occasions, the lock: on a real workspace with a small real stage."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.config import DataConfig
from core.contract import Limit, Stage
from core.errors import (
    ArtifactMissing,
    DiskFull,
    FileTampered,
    ManifestBroken,
    PathEscapes,
    WorkspaceLocked,
    WorkspaceUnwritable,
)
from core.events import Event, SetAside, StageFinished, StageReused
from core.lineage import ancestors, parent
from core.nouns import Dataset, LabeledDataset, SourceRef
from core.stage import Facts, Order, produce
from core.workspace import Workspace, artifacts, broken, load, locked, open_workspace, read_manifest


def order(digest: str = "a" * 64, limits: tuple[Limit, ...] = (), **more: object) -> Order[Dataset]:
    settings = DataConfig(sources=("rows.jsonl",))
    return Order(noun=Dataset, stage=Stage.DATA, version=1, config=settings, inputs=(digest,), limits=limits, **more)  # type: ignore[arg-type]


def rows_work(text: str = "one row") -> object:
    def work(content: Path) -> Facts:
        (content / "rows.jsonl").write_text(text)
        (content / "log.txt").write_text(f"took {time.time()}")
        source = SourceRef(name="rows.jsonl", sha256="a" * 64, shape="record", records=1)
        own = {"sources": (source,), "rows": 1, "train_rows": 1, "held_out_rows": 0, "rejected": 0, "findings": ()}
        return Facts(own=own, metrics={"rows": 1.0}, without_meaning=frozenset({"log.txt"}))

    return work


def make(workspace: Workspace, heard: list[Event], **options: object) -> Dataset:
    return produce(order(**options), workspace, heard.append, rows_work())  # type: ignore[arg-type]


def test_a_finished_artifact_is_verified_and_reused(workspace: Workspace, events: list[Event]) -> None:
    first = make(workspace, events)
    second = make(workspace, events)
    assert second == first
    assert [type(event) for event in events][-1] is StageReused
    assert not list((workspace.root / "staging").iterdir())


def test_other_input_is_another_artifact(workspace: Workspace, events: list[Event]) -> None:
    assert make(workspace, events).artifact_id != make(workspace, events, digest="b" * 64).artifact_id


def test_the_content_digest_leaves_out_files_without_meaning(workspace: Workspace, events: list[Event]) -> None:
    first = make(workspace, events)
    again = make(Workspace(workspace.root, frozenset({Stage.DATA})), events)
    assert isinstance(events[-1], StageFinished)
    assert again.content_digest == first.content_digest
    assert again.file("log.txt") != first.file("log.txt")
    with pytest.raises(KeyError):
        again.file("none")


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove", "extend"])
def test_a_harmed_file_is_found_set_aside_and_the_stage_redone(
    workspace: Workspace, events: list[Event], harm: str
) -> None:
    artifact = make(workspace, events)
    path = workspace.folder(Stage.DATA, artifact.artifact_id) / "rows.jsonl"
    {
        "flip": lambda: path.write_text("one roW"),
        "truncate": lambda: path.write_text("one"),
        "remove": path.unlink,
        "extend": lambda: path.write_text("one row and more"),
    }[harm]()
    with pytest.raises(FileTampered):
        load(workspace, Stage.DATA, artifact.artifact_id, Dataset)
    again = make(workspace, events)
    moved = next(event for event in events if isinstance(event, SetAside))
    assert Path(moved.moved_to).is_dir()
    assert again.content_digest == artifact.content_digest
    assert path.read_text() == "one row"


def edit(path: Path, key: str, value: object) -> None:
    manifest = json.loads(path.read_text())
    manifest[key] = value
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", 999, "it was edited"),
        ("rows", "many", "rows: "),
        ("colour", "red", "colour: "),
        ("config", {"x": float("nan")}, "never written"),
        ("artifact_id", "0" * 12, "folder's name"),
    ],
)
def test_a_manifest_edited_by_hand_is_refused_and_redone(
    workspace: Workspace, events: list[Event], key: str, value: object, message: str
) -> None:
    artifact = make(workspace, events)
    path = workspace.folder(Stage.DATA, artifact.artifact_id) / "manifest.json"
    edit(path, key, value)
    if key == "artifact_id":
        edited = json.loads(path.read_text())
        from core.workspace import seal_of

        edit(path, "seal", seal_of(edited))
    with pytest.raises(ManifestBroken, match=message):
        read_manifest(workspace, Stage.DATA, artifact.artifact_id, Dataset)
    assert artifacts(workspace, Stage.DATA) == []
    assert list(broken(workspace)) == [(Stage.DATA, artifact.artifact_id)]
    assert make(workspace, events).rows == 1


def test_a_stage_folder_that_is_a_link_leads_nowhere(workspace: Workspace, events: list[Event], tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (workspace.root / "artifacts" / "data").symlink_to(outside)
    with pytest.raises(PathEscapes):
        make(workspace, events)
    assert list(outside.iterdir()) == []


def test_a_manifest_that_points_outside_is_refused(workspace: Workspace, events: list[Event]) -> None:
    artifact = make(workspace, events)
    path = workspace.folder(Stage.DATA, artifact.artifact_id) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["path"] = "../../../../etc/passwd"
    from core.workspace import seal_of

    manifest["seal"] = seal_of(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(PathEscapes):
        load(workspace, Stage.DATA, artifact.artifact_id, Dataset)
    assert make(workspace, events).rows == 1


def test_on_reuse_the_gate_is_judged_with_todays_limits(workspace: Workspace, events: list[Event]) -> None:
    assert make(workspace, events).verdict.passed
    strict = make(workspace, events, limits=(Limit(metric="rows", op=">=", value=5),))
    assert isinstance(events[-1], StageReused)
    assert not strict.verdict.passed


def test_an_occasion_is_reused_while_young_and_opened_anew_when_forced(workspace: Workspace, events: list[Event]) -> None:
    first = make(workspace, events, max_age_s=3600.0)
    assert make(workspace, events, max_age_s=3600.0).artifact_id == first.artifact_id
    forced = make(Workspace(workspace.root, frozenset({Stage.DATA})), events, max_age_s=3600.0)
    assert forced.artifact_id != first.artifact_id
    assert make(workspace, events, max_age_s=0.0).artifact_id != forced.artifact_id
    assert len(artifacts(workspace, Stage.DATA)) == 3


def test_work_that_fails_publishes_nothing(workspace: Workspace, events: list[Event]) -> None:
    def work(content: Path) -> Facts:
        (content / "rows.jsonl").write_text("half")
        raise DiskFull("no space left", remedy="Free some.")

    with pytest.raises(DiskFull):
        produce(order(), workspace, events.append, work)
    assert artifacts(workspace, Stage.DATA) == []
    assert make(workspace, events).rows == 1


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
import test_stage
from pathlib import Path
from core.workspace import open_workspace
from core import stage
workspace = open_workspace(Path(sys.argv[1]))
def die(*args): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "publish":
    stage.publish = die
    stage.produce(test_stage.order(), workspace, print, test_stage.rows_work())
else:
    def work(content):
        (content / "rows.jsonl").write_text("half")
        (content.parent / "kept").write_text("progress")
        die()
    stage.produce(test_stage.order(keeps_progress=True), workspace, print, work)
"""


@pytest.mark.parametrize("moment", ["publish", "work"])
def test_kill_9_leaves_no_half_artifact_and_the_next_run_finishes(
    workspace: Workspace, events: list[Event], moment: str
) -> None:
    script = KILLED.format(root=str(Path(__file__).parents[2]), tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, str(workspace.root), moment], capture_output=True, check=False)
    assert done.returncode == -9
    assert artifacts(workspace, Stage.DATA) == []
    kept = list((workspace.root / "staging").glob("*/kept"))
    assert len(kept) == (1 if moment == "work" else 0)
    assert make(workspace, events).rows == 1


def test_two_runs_at_once_are_refused_and_a_kill_releases_the_lock(workspace: Workspace) -> None:
    with (
        locked(workspace, "edgekiln run"),
        pytest.raises(WorkspaceLocked, match="edgekiln run"),
        locked(workspace, "other"),
    ):
        pass
    with locked(workspace, "again"):
        pass


def test_an_unwritable_workspace_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceUnwritable):
        open_workspace(tmp_path / "file" / "workspace")


def test_an_artifact_that_was_never_made_is_missing(workspace: Workspace) -> None:
    with pytest.raises(ArtifactMissing, match="no data artifact"):
        read_manifest(workspace, Stage.DATA, "0" * 12, Dataset)


def test_ancestors_are_found_through_the_manifests(workspace: Workspace, events: list[Event]) -> None:
    dataset = make(workspace, events)
    child = dataset.model_copy(update={"parents": (dataset.as_parent(),), "artifact_id": "f" * 12})
    assert parent(workspace, child, Dataset) == dataset
    assert ancestors(workspace, child) == [dataset]
    with pytest.raises(ArtifactMissing, match="no LabeledDataset"):
        parent(workspace, child, LabeledDataset)
