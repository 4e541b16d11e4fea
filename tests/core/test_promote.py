"""Promotion: the pointer moves under a journal, is verified, and is put back; kill -9 at three points."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core import promote
from core.config import ExportConfig
from core.contract import Limit, LimitFailure, Stage, Verdict
from core.errors import ArtifactMissing, FileTampered, GateRefused, ManifestBroken, PathEscapes
from core.events import Event, Promoted, RolledBack, ignore
from core.export.gguf_answer.answer import answer
from core.nouns import GgufModel
from core.promote import conclude, current, refuse_failed, replay_journal, rollback, verify_pointer
from core.stage import Facts, Order, produce
from core.workspace import Workspace
from tests.core import published_chain

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from core import promote
from core.contract import Stage
from core.events import ignore
from core.nouns import GgufModel
from core.workspace import open_workspace, read_manifest

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

root, artifact_id, moment = sys.argv[1:]
workspace = open_workspace(Path(root))
gguf = read_manifest(workspace, Stage.EXPORT, artifact_id, GgufModel)
write = promote.write_atomic
if moment == "before the pointer moves":
    promote.write_atomic = lambda path, data: write(path, data) if path == workspace.journal else die()
promote.promote(workspace, "demo", gguf, die if moment == "before it is verified" else ignore)
journal = promote.Journal.model_validate_json(workspace.journal.read_bytes())
write(workspace.journal, journal.model_copy(update={"verified": True}).model_dump_json().encode())
die()
"""


@pytest.fixture
def first(workspace: Workspace) -> GgufModel:
    return published_chain.chain(workspace, "first")[0]


@pytest.fixture
def second(workspace: Workspace) -> GgufModel:
    return published_chain.chain(workspace, "second")[0]


def promoted(workspace: Workspace, gguf: GgufModel) -> None:
    promote.promote(workspace, "demo", gguf, ignore)
    conclude(workspace)


def with_real_file(workspace: Workspace, gguf: GgufModel, real: Path) -> GgufModel:
    """Publish the model again with a GGUF file that runs in the place of its Q8_0."""
    file = gguf.quantisations[0]
    own = {name: getattr(gguf, name) for name in ("student", "reference_held_out_loss")}
    own |= {"quantisations": (file,), "rejected": ()}
    order = Order(noun=GgufModel, stage=Stage.EXPORT, version=2, config=ExportConfig(), parents=gguf.parents)

    def work(content: Path) -> Facts:
        shutil.copyfile(real, content / file.path)
        return Facts(own=own)

    return produce(order, workspace, ignore, work)


def kill_at(workspace: Workspace, gguf: GgufModel, moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(workspace.root), gguf.artifact_id, moment],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr.decode()


def test_a_promotion_moves_the_pointer_and_keeps_the_journal_until_it_is_concluded(
    workspace: Workspace, first: GgufModel, second: GgufModel, events: list[Event]
) -> None:
    promoted(workspace, first)
    pointer = promote.promote(workspace, "demo", second, events.append)
    assert (pointer.artifact_id, pointer.previous) == (second.artifact_id, first.artifact_id)
    assert current(workspace, "demo") == pointer
    assert workspace.journal.exists()
    conclude(workspace)
    assert not workspace.journal.exists()
    assert [type(event) for event in events] == [Promoted]


def test_promoting_the_current_model_again_changes_nothing(
    workspace: Workspace, first: GgufModel, events: list[Event]
) -> None:
    promoted(workspace, first)
    before = workspace.pointer("demo").read_bytes()
    promote.promote(workspace, "demo", first, events.append)
    assert workspace.pointer("demo").read_bytes() == before
    assert not workspace.journal.exists()
    assert events == []


def test_a_failed_verdict_is_never_promoted(workspace: Workspace, first: GgufModel) -> None:
    failure = LimitFailure(limit=Limit(metric="tg_tps.Q8_0", op=">=", value=20), measured=15.5)
    failed = first.model_copy(update={"verdict": Verdict(passed=False, failures=(failure,))})
    with pytest.raises(GateRefused, match=r"tg_tps\.Q8_0 is 15\.5, the limit is >= 20"):
        promote.promote(workspace, "demo", failed, ignore)
    assert current(workspace, "demo") is None
    assert not workspace.journal.exists()


def test_every_failed_gate_is_named_and_passed_ones_are_not(workspace: Workspace) -> None:
    gguf, run = published_chain.chain(workspace)
    assert not run.verdict.passed
    with pytest.raises(GateRefused) as refused:
        refuse_failed(gguf, run)
    assert run.artifact_id in refused.value.problem
    assert gguf.artifact_id not in refused.value.problem
    with pytest.raises(GateRefused, match="no limit is named"):
        refuse_failed(run.model_copy(update={"verdict": Verdict(passed=False)}))


def test_a_rollback_restores_the_pointer_before_and_a_second_one_does_nothing(
    workspace: Workspace, first: GgufModel, second: GgufModel, events: list[Event]
) -> None:
    promoted(workspace, first)
    before = workspace.pointer("demo").read_bytes()
    promote.promote(workspace, "demo", second, ignore)
    rollback(workspace, "other", "not its profile", events.append)
    assert events == []
    rollback(workspace, "demo", "it does not answer", events.append)
    rollback(workspace, "demo", "it does not answer", events.append)
    assert workspace.pointer("demo").read_bytes() == before
    assert [(e.artifact_id, e.restored) for e in events if isinstance(e, RolledBack)] == [
        (second.artifact_id, first.artifact_id)
    ]


def test_the_rollback_of_a_first_promotion_leaves_no_pointer(workspace: Workspace, first: GgufModel) -> None:
    promote.promote(workspace, "demo", first, ignore)
    rollback(workspace, "demo", "it does not answer", ignore)
    assert current(workspace, "demo") is None
    with pytest.raises(ArtifactMissing, match="no current model"):
        verify_pointer(workspace, "demo", ignore)


@pytest.mark.parametrize("moment", ["before the pointer moves", "before it is verified"])
def test_a_promotion_killed_before_it_was_verified_is_undone_by_the_replay(
    workspace: Workspace, first: GgufModel, second: GgufModel, moment: str
) -> None:
    promoted(workspace, first)
    before = workspace.pointer("demo").read_bytes()
    kill_at(workspace, second, moment)
    assert workspace.journal.exists()
    replay_journal(workspace, ignore)
    replay_journal(workspace, ignore)
    assert workspace.pointer("demo").read_bytes() == before
    assert not workspace.journal.exists()


def test_a_promotion_killed_after_it_was_verified_stands(
    workspace: Workspace, first: GgufModel, second: GgufModel, events: list[Event]
) -> None:
    promoted(workspace, first)
    kill_at(workspace, second, "after it was verified")
    replay_journal(workspace, events.append)
    pointer = current(workspace, "demo")
    assert pointer is not None
    assert pointer.artifact_id == second.artifact_id
    assert not workspace.journal.exists()
    assert len(events) == 1


def test_a_tampered_model_is_found_through_the_pointer(workspace: Workspace, first: GgufModel) -> None:
    promote.promote(workspace, "demo", first, ignore)
    (workspace.folder(Stage.EXPORT, first.artifact_id) / first.quantisations[0].path).write_bytes(b"other")
    with pytest.raises(FileTampered):
        verify_pointer(workspace, "demo", ignore)


def test_a_model_that_is_current_need_not_be_promoted_again(
    workspace: Workspace, first: GgufModel, second: GgufModel
) -> None:
    assert not promote.points_to(workspace, "demo", first)
    promoted(workspace, first)
    assert promote.points_to(workspace, "demo", first)
    assert not promote.points_to(workspace, "demo", second)
    assert not promote.points_to(workspace, "another", first)


def test_a_pointer_edited_by_hand_is_refused_with_what_to_do(workspace: Workspace) -> None:
    workspace.pointer("demo").write_text('{"profile": "demo"}', encoding="utf-8")
    with pytest.raises(ManifestBroken, match=r"current/demo\.json"):
        current(workspace, "demo")


def test_a_profile_name_cannot_lead_out_of_the_workspace(workspace: Workspace) -> None:
    with pytest.raises(PathEscapes):
        current(workspace, "../../elsewhere")


def test_a_model_without_a_kept_file_is_refused(first: GgufModel) -> None:
    assert promote.promoted_file(first).type == "Q8_0"
    with pytest.raises(GateRefused, match="keeps 0 quantisations"):
        promote.promoted_file(first.model_copy(update={"quantisations": ()}))


@pytest.mark.model
def test_a_file_that_is_no_gguf_is_refused_when_it_is_asked(workspace: Workspace, toolchain, first: GgufModel) -> None:
    promote.promote(workspace, "demo", first, ignore)
    with pytest.raises(GateRefused, match="cannot be loaded"):
        verify_pointer(workspace, "demo", ignore)
    assert workspace.journal.exists()


@pytest.mark.model
def test_the_default_model_answers_in_a_process_of_its_own(default_gguf: Path, tmp_path: Path) -> None:
    assert len(answer(default_gguf, tmp_path)) > 3


@pytest.mark.model
def test_a_verified_promotion_is_recorded_in_the_journal(
    workspace: Workspace, first: GgufModel, default_gguf: Path, events: list[Event]
) -> None:
    genuine = with_real_file(workspace, first, default_gguf)
    promote.promote(workspace, "demo", genuine, ignore)
    assert len(verify_pointer(workspace, "demo", ignore)) > 3
    replay_journal(workspace, events.append)
    pointer = current(workspace, "demo")
    assert pointer is not None
    assert pointer.artifact_id == genuine.artifact_id


def test_a_folder_in_a_pointers_place_is_a_broken_pointer(workspace: Workspace) -> None:
    workspace.pointer("demo").mkdir()
    with pytest.raises(ManifestBroken, match=r"current/demo\.json: Is a directory"):
        current(workspace, "demo")
