"""The catalogue of what a workspace has produced: figures, ancestry, standing, publications; what is gone is unknown."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.contract import Origin, Stage
from core.errors import ArtifactMissing, ManifestBroken
from core.events import ignore
from core.nouns import GgufModel
from core.produced import find, produced
from core.promote import promote
from core.publish.record import Publication, PublishedFile, publications, record
from core.report.page import page_html
from core.report.produced import files_table, model_tables, models_table, produced_page
from core.runs import RunRecord, RunStatus, write_run
from core.workspace import Workspace
from flows.cli.main import run
from tests.core import published_chain

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)


def two_models(workspace: Workspace) -> tuple[GgufModel, GgufModel]:
    """An older model, measured twice and published, and a newer one that is current."""
    older, _ = published_chain.chain(workspace)
    published_chain.benchmark(workspace, older, occasion=5)
    newer = published_chain.chain(workspace, "other")[0]
    promote(workspace, "demo", newer, ignore)
    artifacts = {Stage.EXPORT: newer.artifact_id}
    started = {"config": {}, "started_at": NOW, "status": RunStatus.FINISHED}
    write_run(workspace, RunRecord(run_id="r1", profile="demo", artifacts=artifacts, **started))
    record(workspace, publication(older))
    return older, newer


def publication(model: GgufModel, to: str = "hf://ada/tutor", revision: str | None = "c" * 40) -> Publication:
    file = PublishedFile(path="tiny-Q8_0.gguf", sha256="a" * 64, bytes=85_000_000)
    return Publication(
        at=NOW, artifact_id=model.artifact_id, seal=model.seal, edgekiln="1", to=to, revision=revision, files=(file,)
    )


def test_the_newest_comes_first_with_its_ancestry_standing_and_publications(workspace: Workspace) -> None:
    older, newer = two_models(workspace)
    first, second = produced(workspace)
    assert (first.model.artifact_id, second.model.artifact_id) == (newer.artifact_id, older.artifact_id)
    assert (first.current_for, second.current_for) == (("demo",), ())
    assert (first.profiles, second.profiles) == (("demo",), ())
    assert [told.to for told in second.published] == ["hf://ada/tutor"]
    assert second.teacher is not None
    assert (second.teacher.name, second.dataset_title, second.base.name) == ("teacher", "prompts.jsonl", "tiny")
    assert [one.stage for one in second.lineage] == [Stage.TRAIN, Stage.LABEL, Stage.DATA]


def test_of_several_benchmarks_the_newest_speed_counts_and_a_failed_one_is_none(workspace: Workspace) -> None:
    two_models(workspace)
    speeds = {(one.quantisation, one.test): one.median_tps for one in produced(workspace)[1].speeds}
    assert speeds == {("Q8_0", "pp128"): 125.0, ("Q8_0", "tg32"): 20.5, ("Q4_0", "pp128"): 185.0}
    files = files_table(produced(workspace))
    assert files.column("generation_tps") == (15.5, None, 20.5, None)


def test_a_speed_that_was_not_measured_is_told_with_its_origin_and_stands_in_no_column(workspace: Workspace) -> None:
    model = published_chain.chain(workspace)[0]
    emulated = published_chain.measurement("Q8_0", "tg32", 3.0, Origin.EMULATED)
    published_chain.benchmark(workspace, model, measurements=(emulated,), occasion=9)
    (one,) = produced(workspace)
    assert files_table([one]).column("generation_tps") == (None, None)
    speeds = next(table for table in model_tables(one) if table.title.startswith("Speeds"))
    assert "emulated" in speeds.column("origin")


def test_the_shares_of_right_answers_stand_beside_the_files_that_have_them(workspace: Workspace) -> None:
    two_models(workspace)
    first, second = produced(workspace)
    assert "exact_match" not in {column.key for column in files_table([first, second]).columns}
    asked = first.model.model_copy(update={"metrics": {"exact_match.Q8_0": 0.75, "held_out_loss.Q8_0": 1.0}})
    table = files_table([first.model_copy(update={"model": asked}), second])
    assert table.column("exact_match") == (75.0, None, None, None)


def test_what_is_not_in_the_workspace_any_more_is_unknown_and_said(workspace: Workspace) -> None:
    model = published_chain.chain(workspace)[0]
    shutil.rmtree(workspace.root / "artifacts" / "label")
    (one,) = produced(workspace)
    assert (one.teacher, one.dataset, one.dataset_title) == (None, None, None)
    lineage = next(table for table in model_tables(one) if table.title == "Made from")
    assert lineage.column("made")[-1] == "not in this workspace"
    assert models_table([one]).column("teacher") == (None,)
    assert find(workspace, model.artifact_id[:6]) == one


def test_a_prefix_of_none_or_several_is_refused_and_a_broken_export_told(workspace: Workspace) -> None:
    older, _ = two_models(workspace)
    with pytest.raises(ArtifactMissing, match=r"2 exports of .* begin with ''"):
        find(workspace, "")
    with pytest.raises(ArtifactMissing, match=r"0 exports of .* begin with 'zzzz'"):
        find(workspace, "zzzz")
    path = workspace.folder(Stage.EXPORT, older.artifact_id) / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"tiny"', '"giant"'), encoding="utf-8")
    assert len(produced(workspace)) == 1
    with pytest.raises(ManifestBroken, match="it was edited"):
        find(workspace, older.artifact_id)


def test_the_same_publication_is_recorded_once_and_a_broken_line_is_named(workspace: Workspace) -> None:
    model = published_chain.chain(workspace)[0]
    for made in (publication(model), publication(model), publication(model, revision="d" * 40), publication(model)):
        record(workspace, made)
    assert [told.revision for told in publications(workspace)] == ["c" * 40, "d" * 40, "c" * 40]
    with workspace.publications.open("ab") as stream:
        stream.write(b'{"at": 1\n')
    with pytest.raises(ManifestBroken, match=r"publications\.jsonl, line 4"):
        publications(workspace)


def test_the_page_needs_no_network_and_holds_every_model(workspace: Workspace) -> None:
    older, newer = two_models(workspace)
    page = page_html(produced_page(produced(workspace)))
    assert all(text in page for text in (older.artifact_id, newer.artifact_id, "hf://ada/tutor", "KL divergence by size"))
    assert not [mark for mark in ('src="http', "src='http", 'href="http') if mark in page]
    assert "rejected: held_out_loss 3.2" in page


def test_the_command_answers_in_text_json_and_as_a_page(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = two_models(workspace)
    where = ["--workspace", str(workspace.root)]
    assert run(["models", *where, "--html", str(tmp_path / "models.html")]) == 0
    told = capsys.readouterr().out
    assert older.artifact_id in told
    assert "current for" in told
    assert newer.artifact_id in (tmp_path / "models.html").read_text(encoding="utf-8")
    assert run(["models", older.artifact_id[:6], *where]) == 0
    assert "Made from" in capsys.readouterr().out
    assert run(["export", "table", older.artifact_id[:6], *where]) == 0
    assert f"export {older.artifact_id}" in capsys.readouterr().out
    assert run(["models", "--json", *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["model"]["artifact_id"] for one in document] == [newer.artifact_id, older.artifact_id]


def test_an_empty_workspace_says_how_a_model_is_made(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--workspace", str(workspace.root)]) == 0
    assert "nothing was exported yet" in capsys.readouterr().out
