"""The whole job, small: what it leaves, what a second run reuses, what a change redoes, what it says when a gate says no."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.contract import CHAIN, Stage
from core.promote import current
from tests.e2e.conftest import Finished
from tests.e2e.whole_job import ROOT, WholeJob, digests, verify_everything

pytestmark = [pytest.mark.model, pytest.mark.prefect]


def edgekiln(job: WholeJob, *arguments: str) -> str:
    command = [sys.executable, "-m", "flows.cli.main", *arguments, "--workspace", str(job.root)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def reused(document: dict) -> set[str]:
    return set(document["run"]["reused"])


def test_the_job_leaves_whole_artifacts_a_pointer_a_page_and_a_database(finished: Finished) -> None:
    job, run = finished.job, finished.document["run"]
    verify_everything(job.workspace)
    assert set(run["artifacts"]) == {stage.value for stage in CHAIN}
    pointer = current(job.workspace, "small")
    assert pointer is not None
    assert pointer.artifact_id == run["artifacts"]["export"]
    assert not job.workspace.journal.exists()
    assert "<svg" in (job.workspace.run_folder(run["run_id"]) / "index.html").read_text(encoding="utf-8")
    assert not list((job.root / "staging").glob("*"))


def test_every_file_of_the_closing_table_has_its_figures(finished: Finished) -> None:
    rows = finished.document["result"]["rows"]
    assert [row["quantisation"] for row in rows] == ["Q8_0", "Q4_0"]
    assert all(row["origin"] == "measured" for row in rows)
    assert {key for row in rows for key, cell in row.items() if cell is None} == {
        "kl_mean",  # three rows are too short a text
        "memory_measured_mib",  # the profile sets no limit
    }
    assert [round(row["bits_per_weight"], 2) for row in rows] == [8.51, 5.35]


def test_trace_explains_every_figure_of_the_closing_table(finished: Finished) -> None:
    run = finished.document["run"]["run_id"]
    lines = json.loads(edgekiln(finished.job, "trace", run, "--json"))["rows"]
    explained = {line["value"] for line in lines if isinstance(line["value"], float)}
    for row in finished.document["result"]["rows"]:
        figures = {cell for cell in row.values() if isinstance(cell, float)}
        assert len(figures) == 6
        assert figures <= explained
    what = {line["what"] for line in lines}
    assert {"held-out loss, base", "held-out loss, adapter", "tool llama.cpp", "teacher", "rows kept"} <= what


def test_the_end_of_the_run_reached_the_living_channel_and_the_dead_one_was_told_without_its_url(
    finished: Finished,
) -> None:
    assert [message["type"] for message in finished.received] == ["success"]
    folder = finished.job.workspace.run_folder(finished.document["run"]["run_id"])
    events = (folder / "events.jsonl").read_text(encoding="utf-8")
    assert "DEAD_CHANNEL" in events
    assert "secret-path" not in events


def test_a_second_run_reuses_everything_and_an_operational_field_changes_nothing(finished: Finished) -> None:
    again = finished.job.finish("--set", "label.concurrency=2", "--set", "train.checkpoint_steps=7")
    assert reused(again) == {stage.value for stage in CHAIN}
    assert again["result"] == finished.document["result"]


def test_a_changed_field_redoes_only_what_depends_on_it(finished: Finished, tmp_path: Path) -> None:
    job = finished.copy(tmp_path / "copy")
    document = job.finish("--set", "bench.n_gen=5")
    assert reused(document) == {"env", "data", "label", "train", "export"}
    assert document["result"]["columns"][6]["title"] == "tg5"


def test_a_gate_that_says_no_ends_with_5_keeps_the_pointer_and_tells(
    finished: Finished, tmp_path: Path, channel: tuple[str, list[dict[str, str]]]
) -> None:
    job = finished.copy(tmp_path / "copy")
    before = current(job.workspace, "small")
    told = len(channel[1])
    done = job.run("--set", "train.min_gain=100")
    assert done.returncode == 5, done.stderr
    assert done.stderr.splitlines()[-2].startswith("[gate-refused] train ")
    assert current(job.workspace, "small") == before
    assert [message["type"] for message in channel[1][told:]] == ["failure"]


@pytest.mark.full
def test_a_tampered_file_is_set_aside_and_what_is_made_anew_from_it_is_the_same(finished: Finished, tmp_path: Path) -> None:
    job = finished.copy(tmp_path / "copy")
    folder = job.workspace.folder(Stage.EXPORT, finished.document["run"]["artifacts"]["export"])
    with (folder / finished.document["result"]["rows"][0]["file"]).open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x00\x01")
    document = job.finish()
    assert list((job.root / "quarantine").glob("*"))
    assert reused(document) == {"env", "data", "label", "train", "bench", "ingest"}
    assert digests(job, document) == digests(finished.job, finished.document)


@pytest.mark.full
def test_force_redoes_from_the_stage_on_and_the_result_is_the_same(finished: Finished, tmp_path: Path) -> None:
    job = finished.copy(tmp_path / "copy")
    document = job.finish("--force", "train")
    assert reused(document) == {"env", "data", "label"}
    assert digests(job, document) == digests(finished.job, finished.document)
