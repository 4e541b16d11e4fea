from __future__ import annotations

import shutil
from datetime import UTC, datetime

import pytest

from core.config import IngestConfig
from core.contract import Stage
from core.errors import ArtifactMissing
from core.ingest.ingest import ingest
from core.lineage import ancestors
from core.nouns import GgufModel, IngestReceipt
from core.publish import record as publish_record
from core.report.render import render
from core.runs import RunRecord, RunStatus, write_run
from core.trace import trace
from core.workspace import Workspace, read_manifest
from tests.core.published_chain import chain, env_report
from tests.core.test_produced import publication


def finished_run(workspace: Workspace) -> tuple[RunRecord, IngestReceipt]:
    _, bench = chain(workspace)
    receipt = ingest(bench, IngestConfig(), workspace)
    made = {
        artifact.stage: artifact.artifact_id
        for artifact in [env_report(workspace), receipt, bench, *ancestors(workspace, bench)]
    }
    record = RunRecord(
        run_id="20261121T030000-abc", profile="demo", config={}, started_at=datetime.now(UTC), status=RunStatus.FINISHED,
        artifacts=made, reused=(Stage.DATA,),
    )  # fmt: skip
    write_run(workspace, record)
    return record, receipt


def test_a_result_is_traced_to_its_run_model_adapter_labels_dataset_and_tools(workspace: Workspace) -> None:
    record, receipt = finished_run(workspace)
    table = trace(workspace, receipt.result_ids[0][:10])
    stages = {str(cell).split()[0] for cell in table.column("of")}
    assert stages == {"result", "bench", "export", "train", "label", "data"}
    rows = {(row[0], row[1]): row[2] for row in table.rows}
    assert rows["result " + receipt.result_ids[0][:12], "run"] == record.run_id
    text = render(table, "json")
    for told in ("tool llama.cpp", "tool trl", "setting lora.r", "a" * 64, "sha256:abc", "measurements.", "held_out_loss"):
        assert told in text, told
    sha256s = [row[2] for row in table.rows if str(row[1]).startswith("Q") and str(row[1]).endswith("sha256")]
    assert len(sha256s) == 1
    assert len(str(sha256s[0])) == 64


def test_a_run_is_traced_with_what_it_made_and_what_it_reused(workspace: Workspace) -> None:
    record, receipt = finished_run(workspace)
    table = trace(workspace, record.run_id[:12])
    values = {row[1]: row[2] for row in table.rows if str(row[0]).startswith("run ")}
    assert values["data"] == f"{record.artifacts[Stage.DATA]} (reused)"
    assert values["ingest"] == f"{receipt.artifact_id} (made by this run)"
    assert "env" in {str(cell).split()[0] for cell in table.column("of")}
    assert table.column("what").count("held-out loss, base") == 1


def test_the_memory_of_a_file_is_traced_with_how_each_figure_was_obtained(workspace: Workspace) -> None:
    record, _ = finished_run(workspace)
    rows = {row[1]: row[2:] for row in trace(workspace, record.artifacts[Stage.EXPORT]).rows}
    what = "Q8_0 RAM with a KV cache of 2048 tokens"
    assert rows[f"{what}, predicted"] == (64.0, "MiB", "quantisations.0.memory.estimated_bytes")
    assert rows[f"{what}, measured on the exporting host (x86_64)"] == (
        60.0,
        "MiB",
        "quantisations.0.memory.measured_bytes",
    )
    assert not [told for told in rows if told.startswith("Q4_0 RAM") and "measured" in told]


def test_a_model_is_traced_to_where_it_was_published_and_found_by_its_commit(workspace: Workspace) -> None:
    record, receipt = finished_run(workspace)
    model = read_manifest(workspace, Stage.EXPORT, record.artifacts[Stage.EXPORT], GgufModel)
    sent = publication(model)
    bucket = sent.model_copy(update={"to": "s3://models/tutor", "revision": None, "manifest_sha256": "e" * 64})
    older = sent.model_copy(update={"to": "hf://ada/old", "revision": "a1" * 20, "seal": "0" * 64})
    for one in (sent, bucket, older):
        publish_record.record(workspace, one)
    told = {row[1]: row for row in trace(workspace, receipt.result_ids[0]).rows}
    at, name = "2026-11-21T09:00:00Z", f"export {model.artifact_id}"
    where = "audit/publications.jsonl"
    said = f"{at}, commit {'c' * 40}, 1 file"
    assert told["published to hf://ada/tutor"] == (name, "published to hf://ada/tutor", said, "", where)
    assert told["published to s3://models/tutor"][2] == f"{at}, manifest {'e' * 64}, 1 file"
    assert str(told["published to hf://ada/old"][2]).endswith("of this export as it was before it was made again")
    for mark in ("cccccccc", "c" * 40, "E" * 64):
        assert trace(workspace, mark).title == f"Where {name} comes from"
    shutil.rmtree(workspace.folder(Stage.EXPORT, model.artifact_id))
    with pytest.raises(ArtifactMissing, match="no run, artifact, result or publication"):
        trace(workspace, "cccccccc")


def test_a_broken_line_about_publications_is_told_and_the_rest_is_traced(workspace: Workspace) -> None:
    record, _ = finished_run(workspace)
    workspace.publications.parent.mkdir()
    workspace.publications.write_text("{}\n")
    rows = trace(workspace, record.artifacts[Stage.EXPORT]).rows
    (line,) = [row for row in rows if row[1] == "published to"]
    assert line[2] is None
    assert "publications.jsonl, line 1: Field required" in str(line[4])
    assert "train" in {str(row[0]).split()[0] for row in rows}


def test_an_unfinished_run_says_what_was_not_reached_and_what_is_gone(workspace: Workspace) -> None:
    record = RunRecord(
        run_id="r1",
        profile="demo",
        config={},
        started_at=datetime.now(UTC),
        status=RunStatus.FAILED,
        artifacts={Stage.DATA: "0" * 12},
    )
    write_run(workspace, record)
    rows = trace(workspace, "r1").rows
    assert ("run r1", "train", "not reached", "", "runs/r1/run.json") in rows
    assert any(row[1] == "manifest" and "no data artifact" in str(row[4]) for row in rows)


def test_an_artifact_is_traced_by_the_beginning_of_its_id(workspace: Workspace) -> None:
    record, _ = finished_run(workspace)
    table = trace(workspace, record.artifacts[Stage.TRAIN][:8])
    assert {str(cell).split()[0] for cell in table.column("of")} == {"train", "label", "data"}


def test_no_address_of_the_teacher_and_no_name_of_a_key_is_told(workspace: Workspace) -> None:
    record, _ = finished_run(workspace)
    text = render(trace(workspace, record.run_id), "json")
    assert "teacher.example" not in text
    assert "TEACHER_KEY" not in text


@pytest.mark.parametrize("what", ["", "zzz", "'; DROP TABLE results; --", "%", "../../etc"])
def test_an_unknown_id_is_an_error_with_its_remedy(workspace: Workspace, what: str) -> None:
    finished_run(workspace)
    with pytest.raises(ArtifactMissing, match="Fix: List the runs"):
        trace(workspace, what)


def test_an_ambiguous_id_names_what_it_could_be(workspace: Workspace) -> None:
    for run_id in ("Abcd1", "Abcd2"):
        write_run(
            workspace,
            RunRecord(run_id=run_id, profile="demo", config={}, started_at=datetime.now(UTC), status=RunStatus.FAILED),
        )
    with pytest.raises(ArtifactMissing, match="beginning of 2 ids: run Abcd2, run Abcd1"):
        trace(workspace, "abcd")
    assert trace(workspace, "abcd1").title == "Where run Abcd1 comes from"
    with pytest.raises(ArtifactMissing, match="4 characters"):
        trace(workspace, "abc")


def test_a_result_whose_run_was_removed_says_so(workspace: Workspace) -> None:
    record, receipt = finished_run(workspace)
    folder = workspace.folder(Stage.BENCH, record.artifacts[Stage.BENCH])
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactMissing, match="no bench artifact"):
        trace(workspace, receipt.result_ids[0])


def test_a_parent_that_is_gone_is_unknown_with_the_reason(workspace: Workspace) -> None:
    record, _ = finished_run(workspace)
    (workspace.folder(Stage.DATA, record.artifacts[Stage.DATA]) / "manifest.json").unlink()
    rows = trace(workspace, record.artifacts[Stage.LABEL]).rows
    assert [row[2] for row in rows if row[1] == f"data {record.artifacts[Stage.DATA]}"] == [None]
