"""The verb search on a tiny real Llama: trials train, prune, diverge, are killed and go on, and the artifact says it all."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from core import config as configuration
from core.config import SearchConfig, TrainConfig
from core.contract import Stage
from core.errors import BadConfig, BudgetReached, OutOfMemory, TrainingDiverged, UsageError
from core.events import Event
from core.nouns import SearchReport
from core.report.run_page import run_page
from core.report.search import read_trials
from core.runs import RunRecord, RunStatus
from core.search.joining import join
from core.search.range_test.curve import Curve
from core.search.request import TrialsRequest
from core.search.search import search
from core.search.trial import worker as trial_worker
from core.trace import trace
from core.workspace import Workspace, load, open_workspace
from tests.core.train.sample_trainings import trained

REPOSITORY = Path(__file__).parents[3]
_spec = importlib.util.spec_from_file_location("drive", REPOSITORY / "tests/core/train/drive.py")
drive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drive)

ROWS = 24
FIXED: dict[str, Any] = dict.fromkeys(("lora_alpha", "lora_dropout", "effective_batch", "lr_scheduler_type"))
SEARCH: dict[str, Any] = {
    "trials": 2,
    "processes": 2,
    "subset_rows": 12,
    "evaluations": 2,
    "space": {**FIXED, "learning_rate": {"low": 1e-3, "high": 2e-2}, "r": [2, 4]},
    "range_test": {"steps": 10, "low": 1e-4, "high": 1.0},
}
TRAIN: dict[str, Any] = {
    "student": "tiny",
    "device": "cpu",
    "per_device_train_batch_size": 2,
    "num_train_epochs": 1,
    "lora": {"r": 4, "lora_alpha": 8},
    "checkpoint_steps": 2,
    "seed": 11,
}


@dataclass
class Case:
    folder: Path
    student: Path
    search: dict[str, Any] = field(default_factory=lambda: dict(SEARCH))
    train: dict[str, Any] = field(default_factory=lambda: dict(TRAIN))
    events: list[Event] = field(default_factory=list)

    @property
    def workspace(self) -> Workspace:
        return open_workspace(self.folder / "workspace")

    def beside(self) -> Path:
        beside = self.folder / "profile"
        (beside / "models").mkdir(parents=True, exist_ok=True)
        card = {
            "roles": ["student"],
            "source": {"kind": "local", "path": str(self.student)},
            "parameters": 100_000,
            "hidden_size": 64,
            "licence": "MIT",
            "chat_template": "chatml",
            "memory_mib": 1,
        }
        (beside / "models" / "tiny.yaml").write_text(json.dumps(card), encoding="utf-8")
        return beside

    def run(self, force: frozenset[Stage] = frozenset()) -> SearchReport:
        workspace = open_workspace(self.folder / "workspace", force)
        return search(
            drive.labeled(workspace, ROWS),
            SearchConfig.model_validate(self.search),
            TrainConfig.model_validate(self.train),
            workspace,
            self.events.append,
            beside=self.beside(),
        )

    def content(self, found: SearchReport) -> Path:
        return self.workspace.folder(Stage.SEARCH, found.artifact_id)

    def kinds(self, kind: str) -> list[Any]:
        return [event for event in self.events if event.kind == kind]


@pytest.fixture(scope="module")
def searched(tiny_student, tmp_path_factory) -> tuple[Case, SearchReport]:
    case = Case(tmp_path_factory.mktemp("searched"), tiny_student)
    return case, case.run()


@pytest.mark.full
def test_a_search_publishes_trials_a_winner_and_charts(searched):
    case, found = searched
    assert load(case.workspace, Stage.SEARCH, found.artifact_id, SearchReport).seal == found.seal
    trials = read_trials(case.content(found))
    assert [record.outcome for record in trials] == ["finished", "finished"]
    assert found.outcomes == {"finished": 2}
    best = min(trials, key=lambda record: record.measured.held_out_loss)
    assert (found.best_trial, found.best_trials, found.winner) == (best.number, (best.number,), best.settings)
    assert found.held_out_loss == best.measured.held_out_loss < best.measured.base_held_out_loss
    assert found.verdict.passed
    assert all(record.measured.steps == 6 and len(record.early_losses) == 2 for record in trials)
    names = {ref.path for ref in found.files}
    assert {"trials.jsonl", "winner.yaml", "range_test.json", "index.html", "history.png", "parallel.png"} <= names
    assert all((case.content(found) / name).read_bytes()[:4] == b"\x89PNG" for name in names if name.endswith(".png"))


@pytest.mark.full
def test_the_winners_file_changes_what_was_searched_and_nothing_else(searched):
    case, found = searched
    path = case.content(found) / "winner.yaml"
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {"train": found.winner}
    taken = configuration.load("demo", [str(path)])
    assert taken.train.learning_rate == found.winner["learning_rate"]
    assert taken.train.lora.r == found.winner["lora"]["r"]
    assert set(found.winner) == {"learning_rate", "lora"}
    assert set(found.winner["lora"]) == {"r"}


@pytest.mark.full
def test_the_range_test_is_kept_and_its_suggestion_is_where_the_first_trial_begins(searched):
    case, found = searched
    curve = Curve.model_validate_json((case.content(found) / "range_test.json").read_bytes())
    assert 2 <= len(curve.points) <= 10
    assert curve.suggested_learning_rate == found.suggested_learning_rate
    first = read_trials(case.content(found))[0]
    assert first.drawn["learning_rate"] == min(max(curve.suggested_learning_rate, 1e-3), 2e-2)


@pytest.mark.full
def test_every_trial_is_told_and_nothing_of_its_own_stages(searched):
    case, _ = searched
    assert sorted(event.number for event in case.kinds("trial-ended")) == [0, 1]
    assert {event.stage for event in case.kinds("stage-started")} == {Stage.SEARCH}
    assert [event.done for event in case.kinds("progress") if event.task.startswith("trial 0")] == list(range(1, 7))


@pytest.mark.full
def test_the_same_search_is_verified_and_reused(searched):
    case, found = searched
    again = Case(case.folder, case.student)
    assert again.run().seal == found.seal
    assert again.kinds("stage-reused")
    assert not again.kinds("trial-ended")


@pytest.mark.full
def test_a_search_can_be_traced_to_its_rows_and_settings(searched):
    case, found = searched
    lines = trace(case.workspace, found.artifact_id)
    assert "winner lora.r" in lines.column("what")
    assert f"label {found.parents[0].artifact_id}" in lines.column("of")


@pytest.mark.full
def test_the_page_of_a_run_shows_the_search_and_how_to_take_its_winner(searched):
    case, found = searched
    made = {Stage.LABEL: found.parents[0].artifact_id, Stage.SEARCH: found.artifact_id}
    record = RunRecord(
        run_id="r1", profile="demo", config={}, started_at=found.created_at, status=RunStatus.FINISHED, artifacts=made
    )
    page = run_page(case.workspace, record)
    (section,) = [one for one in page.sections if one.heading == "Search"]
    assert section.tables[0].column("trial") == (0, 1)
    (following,) = [one for one in page.sections if one.heading == "Next"]
    assert following.code.endswith(f"--set {case.content(found) / 'winner.yaml'}")


def test_a_subset_that_is_larger_than_the_whole_is_refused_before_anything_is_trained(tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, {**SEARCH, "subset_rows": 99})
    with pytest.raises(BadConfig, match=r"search\.subset_rows=99 > 24 training rows of label"):
        case.run()
    assert not case.kinds("trial-ended")


@pytest.mark.full
def test_a_larger_search_goes_on_from_the_trials_of_a_smaller_one(searched):
    case, found = searched
    more = Case(case.folder, case.student, {**SEARCH, "trials": 3})
    larger = more.run()
    assert larger.artifact_id != found.artifact_id
    assert read_trials(more.content(larger))[:2] == [
        record.model_copy(update={"is_best": record.number in larger.best_trials})
        for record in read_trials(case.content(found))
    ]
    assert [event.number for event in more.kinds("trial-ended")] == [2]


@pytest.mark.full
def test_a_range_test_that_was_damaged_on_disk_is_told_and_taken_again(tiny_student, tmp_path):
    Case(tmp_path, tiny_student, {**SEARCH, "trials": 1, "processes": 1}).run()
    (kept,) = (tmp_path / "workspace" / "search").glob("*/range_test.json")
    kept.write_text('{"points": [', encoding="utf-8")
    more = Case(tmp_path, tiny_student, {**SEARCH, "trials": 2, "processes": 1})
    more.run()
    assert [note for note in more.kinds("note") if note.text.startswith(f"{kept} is damaged, the test is taken again: ")]
    assert Curve.model_validate_json(kept.read_bytes()).points


@pytest.mark.full
def test_a_diverged_trial_is_a_result_with_its_reason(tiny_student, tmp_path):
    space = {**FIXED, "r": None, "learning_rate": {"low": 0.5, "high": 1.0}}
    train = {**TRAIN, "num_train_epochs": 3, "max_grad_norm": 1e30, "lora": {"r": 4, "lora_alpha": 10**30}}
    asked = {**SEARCH, "trials": 1, "processes": 1, "space": space, "range_test": {"steps": 0}}
    case = Case(tmp_path, tiny_student, asked, train)
    with pytest.raises(TrainingDiverged, match=r"0 of 1 trials finished; the last one, trial 0, diverged: "):
        case.run()
    (told,) = case.kinds("trial-ended")
    assert told.outcome == "diverged"
    assert "is nan" in told.reason or "is inf" in told.reason


def test_a_line_that_a_kill_cut_off_in_a_trials_metrics_ends_no_search(workspace):
    adapter = trained(workspace, host="h")
    path = workspace.folder(Stage.TRAIN, adapter.artifact_id) / "metrics.jsonl"
    step_s = sum(json.loads(line).get("step_s", 0.0) for line in path.read_text(encoding="utf-8").splitlines())
    path.write_bytes(b'{"kind": "step", "step": 2, "lo\n' + path.read_bytes())
    measured = trial_worker._measured(workspace, adapter)
    assert (measured.steps, measured.training_s) == (40, pytest.approx(step_s))


def test_a_trial_that_memory_does_not_suffice_for_has_failed_and_the_next_is_taken(tmp_path, monkeypatch):
    def too_large(*_: Any) -> Any:
        raise OutOfMemory("memory ran out while training: CUDA out of memory.", remedy="...")

    monkeypatch.setattr(trial_worker, "train", too_large)  # no CPU can be asked for a GPU's memory that runs out
    monkeypatch.setattr(trial_worker.signal, "signal", lambda *_: None)
    workspace = open_workspace(tmp_path / "workspace")
    request = TrialsRequest(
        study=str(tmp_path / "study"),
        workspace=str(workspace.root),
        labeled=drive.labeled(workspace, ROWS),
        search=SearchConfig.model_validate({**SEARCH, "max_failed": 3}),
        train=TrainConfig.model_validate(TRAIN),
        beside=None,
    )
    events: list[Event] = []
    assert trial_worker.work(request, tmp_path, events.append).ended == 2
    told = [event for event in events if event.kind == "trial-ended"]
    assert [event.outcome for event in told] == ["failed", "failed"]
    assert "CUDA out of memory" in told[0].reason


@pytest.mark.full
def test_trials_worse_than_the_median_end_early(tiny_student, tmp_path):
    space = {**FIXED, "r": None, "learning_rate": {"low": 1e-6, "high": 3e-2}}
    asked = {"trials": 8, "startup_trials": 2, "space": space, "evaluations": 3, "seed": 3, "range_test": {"steps": 0}}
    case = Case(tmp_path, tiny_student, {**SEARCH, **asked, "subset_rows": None})
    found = case.run()
    pruned = [record for record in read_trials(case.content(found)) if record.outcome == "pruned"]
    assert pruned
    assert all(len(record.early_losses) < 3 or "worse than the median" in record.reason for record in pruned)
    assert all(record.spent_s > 0 for record in pruned)
    assert not (case.workspace.root / "search").joinpath("trials").exists()


@pytest.mark.full
def test_a_search_without_time_says_so_and_goes_on_with_more(tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, {**SEARCH, "budget_s": 0.5, "range_test": {"steps": 0}, "processes": 1})
    with pytest.raises(BudgetReached, match=r"search\.budget_s=0\.5 is spent"):
        case.run()
    case.search["budget_s"] = 600.0
    assert case.run().outcomes["finished"] == 2


@pytest.mark.full
def test_a_search_that_was_killed_with_all_its_processes_goes_on(tiny_student, tmp_path):
    case = Case(tmp_path, tiny_student, {**SEARCH, "trials": 3, "processes": 1})
    asked = {"folder": str(tmp_path), "student": str(tiny_student), "search": case.search}
    (tmp_path / "case.json").write_text(json.dumps(asked), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    running = subprocess.Popen([sys.executable, __file__, str(tmp_path / "case.json")], env=environment)
    study = None
    deadline = time.monotonic() + 300
    while study is None or len(list(study.glob("trials/*/staging/train-*/checkpoints/step-*"))) == 0:
        assert time.monotonic() < deadline
        assert running.poll() is None
        study = next((tmp_path / "workspace" / "search").glob("*"), None)
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -9
    found = case.run()
    trials = read_trials(case.content(found))
    assert [record.outcome for record in trials].count("finished") == 3
    (lost,) = [record for record in trials if record.outcome == "lost"]
    (again,) = [record for record in trials if record.retry_of == lost.number]
    assert again.drawn == lost.drawn
    assert case.kinds("resumed") or lost.number == 0


def test_there_is_nothing_to_join_where_no_search_runs(tmp_path):
    workspace = open_workspace(tmp_path)
    with pytest.raises(UsageError, match="no search is at its trials in"):
        join(workspace, 1)
    (tmp_path / "search" / "left").mkdir(parents=True)
    (tmp_path / "search" / "left" / "request.json").write_text("{}", encoding="utf-8")  # of a search that was killed
    with pytest.raises(UsageError, match="no search is at its trials in"):
        join(workspace, 1)


@pytest.mark.parametrize("processes", [-3, 0, 65])
def test_as_many_processes_as_nobody_means_do_not_join(tmp_path, processes):
    with pytest.raises(UsageError, match=f"{processes} processes, 1 to 64 can join"):
        join(open_workspace(tmp_path), processes)


@pytest.mark.full
def test_a_second_terminal_takes_trials_beside_a_search_and_what_is_killed_loses_only_its_trial(tiny_student, tmp_path):
    asked = {"trials": 6, "processes": 1, "range_test": {"steps": 0}}
    case = Case(tmp_path, tiny_student, {**SEARCH, **asked})
    told = {"folder": str(tmp_path), "student": str(tiny_student), "search": case.search}
    (tmp_path / "case.json").write_text(json.dumps(told), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    first = subprocess.Popen([sys.executable, __file__, str(tmp_path / "case.json")], env=environment)
    command = [
        sys.executable,
        "-m",
        "flows.cli.main",
        "search",
        "--join",
        "--workspace",
        str(case.workspace.root),
        "--json",
    ]
    try:
        wait_until(lambda: list(tmp_path.glob("workspace/search/*/request.json")), first)
        killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        wait_until(lambda: journal(tmp_path).count('"process"') >= 2, first)
        killed.kill()
        killed.wait()
        joined = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert joined.returncode == 0, joined.stderr
        assert first.wait(600) == 0
    finally:
        first.kill()
        first.wait()
    found = case.run()
    assert case.kinds("stage-reused")
    trials = read_trials(case.content(found))
    assert [record.number for record in trials] == list(range(7))
    assert [record.outcome for record in trials].count("finished") == 6
    (lost,) = [record for record in trials if record.outcome == "lost"]
    (again,) = [record for record in trials if record.retry_of == lost.number]
    assert again.drawn == lost.drawn
    assert 1 <= json.loads(joined.stdout)["ended"] <= 5


def journal(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("workspace/search/*/journal.jsonl"))


def wait_until(happened: Callable[[], object], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert child.poll() is None, "the search ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)


if __name__ == "__main__":
    told = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Case(Path(told["folder"]), Path(told["student"]), told["search"]).run()
