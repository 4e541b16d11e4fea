from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from core.config import IngestConfig
from core.contract import Limit, LimitFailure, Stage, Verdict
from core.ingest.ingest import ingest
from core.lineage import ancestors
from core.report import charts
from core.report.closing import closing_table
from core.report.page import Page, Section, page_html
from core.report.run_page import run_page, training_loss, without_userinfo, write_run_page
from core.report.table import Column, Table
from core.runs import RunRecord, RunStatus
from core.workspace import Workspace
from tests.core.published_chain import adapter, benchmark, chain, dataset, env_report, labeled, measurement


def record_of(workspace: Workspace, **changes: object) -> RunRecord:
    _, bench = chain(workspace)
    receipt = ingest(bench, IngestConfig(), workspace)
    made = {
        artifact.stage: artifact.artifact_id
        for artifact in [env_report(workspace), receipt, bench, *ancestors(workspace, bench)]
    }
    started = datetime(2026, 11, 21, 3, tzinfo=UTC)
    config = {
        "label": {"api_key_env": "TEACHER_KEY", "base_url": "https://me:hunter2@teacher.example/v1"},
        "name": "</script><b>",
    }
    fields = {
        "run_id": "r1", "profile": "demo", "config": config, "started_at": started,
        "finished_at": started + timedelta(seconds=300),
        "status": RunStatus.FINISHED, "artifacts": made, "reused": (Stage.DATA,), **changes,
    }  # fmt: skip
    return RunRecord.model_validate(fields)


def test_the_closing_table_says_size_loss_speed_origin_and_verdict_of_every_file(workspace: Workspace) -> None:
    gguf, run = chain(workspace)
    table = closing_table(workspace, gguf, run)
    assert table.column("quantisation") == ("Q8_0", "Q4_0", "Q4_K_M")
    assert table.column("held_out_loss") == (1.40, 1.62, 3.2)
    assert table.column("kl_mean") == (0.004, 0.004, 0.004)
    assert table.column("pp_tps") == (120.0, 180.0, None)
    assert table.column("tg_tps") == (15.5, None, None)
    assert table.column("origin") == ("measured", "measured", None)
    assert table.column("verdict") == (
        "failed: tg_tps.Q8_0 15.5, limit >= 20", "passed", "rejected: held_out_loss 3.2, limit <= 1.89",
    )  # fmt: skip
    assert table.column("file") == ("tiny-Q8_0.gguf", "tiny-Q4_0.gguf", "not kept")
    assert table.column("memory_estimated_mib") == (64.0, 64.0, 64.0)
    assert table.column("memory_measured_mib") == (60.0, None, None)
    assert [column.title for column in table.columns][5:7] == ["pp128", "tg32"]
    assert (
        "RAM with a KV cache of 2,048 tokens: Q8_0 60.0 MiB measured on the exporting host (x86_64) (64.0 MiB estimated), "
        "Q4_0 64.0 MiB estimated"
    ) in table.notes
    assert "base 1.5000, adapter 1.3900 (-0.1100)" in table.notes[0]
    assert "Q4_0 tg32 was not measured: llama-bench ended with signal SIGKILL" in table.notes


def test_the_closing_table_takes_the_shallowest_test_and_tells_a_limit_nobody_measured(workspace: Workspace) -> None:
    gguf, _ = chain(workspace)
    deep = measurement("Q8_0", "tg32", 5.0).model_copy(update={"n_depth": 4096, "test": "tg32 @ d4096"})
    run = benchmark(workspace, gguf, measurements=(deep, measurement("Q8_0", "tg32", 30.0)), occasion=5)
    failure = LimitFailure(limit=Limit(metric="pp_tps.Q8_0", op=">=", value=10.0), measured=None)
    judged = run.model_copy(update={"verdict": Verdict(passed=False, failures=(failure,))})
    table = closing_table(workspace, gguf, judged)
    assert table.column("tg_tps")[0] == 30.0
    assert table.columns[6].title == "tg"
    assert table.column("verdict")[0] == "failed: pp_tps.Q8_0 not measured, limit >= 10"


def test_the_closing_table_stands_without_the_adapters_record(workspace: Workspace) -> None:
    gguf, run = chain(workspace)
    (workspace.folder(Stage.TRAIN, gguf.parents[0].artifact_id) / "manifest.json").unlink()
    assert "the adapter's record is not in this workspace" in closing_table(workspace, gguf, run).notes[0]


def test_the_page_tells_the_run_and_needs_no_network(workspace: Workspace) -> None:
    record = record_of(workspace)
    path = write_run_page(workspace, record)
    assert path == workspace.run_folder("r1") / "index.html"
    text = path.read_text(encoding="utf-8")
    shell = text.replace(charts.bundle(), "")
    for told in (
        "demo, run r1",
        "The run is finished.",
        "300 s",
        "Q4_K_M",
        "disk-tight",
        "edgekiln trace",
        "Resumed from step 3",
    ):
        assert told in shell, told
    for artifact_id in record.artifacts.values():
        assert artifact_id in shell
    assert "default-src 'none'" in shell
    assert not re.search(r"(src|href)=", shell)
    assert text.count(charts.bundle()) == 1
    assert shell.count("data-chart=") == 2
    assert shell.count("<script") == shell.count("</script>") == 3


def test_the_page_holds_no_secret_and_nothing_in_it_can_end_a_script(workspace: Workspace) -> None:
    shell = write_run_page(workspace, record_of(workspace)).read_text(encoding="utf-8").replace(charts.bundle(), "")
    assert "hunter2" not in shell
    assert "TEACHER_KEY" in shell
    assert "</script><b>" not in shell


def test_the_page_of_a_failed_run_shows_its_error_and_how_to_go_on(workspace: Workspace) -> None:
    record = record_of(
        workspace, status=RunStatus.FAILED, error="[data] bad\nFix: mend it", artifacts={Stage.ENV: "0" * 12}
    )
    page = run_page(workspace, record)
    assert (page.lead, page.tone) == ("[data] bad\nFix: mend it", "bad")
    stages = next(section for section in page.sections if section.heading == "Stages").tables[0]
    assert "no env artifact" in str(stages.column("verdict")[0])
    assert stages.column("verdict")[1] == "not reached"
    text = page_html(page)
    assert "edgekiln run --profile demo" in text
    assert charts.bundle() not in text


def test_an_edited_manifest_is_told_on_the_page(workspace: Workspace) -> None:
    record = record_of(workspace)
    manifest = workspace.folder(Stage.DATA, record.artifacts[Stage.DATA]) / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"rows": 9', '"rows": 8'), encoding="utf-8")
    stages = next(section for section in run_page(workspace, record).sections if section.heading == "Stages").tables[0]
    assert "it was edited" in str(stages.column("verdict")[1])


def test_a_chart_becomes_a_picture_and_a_specification_with_its_points(workspace: Workspace) -> None:
    chart = training_loss(workspace, adapter(workspace, labeled(workspace, dataset(workspace))))
    assert chart is not None
    assert charts.png(chart).startswith(b"\x89PNG")
    (points,) = chart.spec["datasets"].values()
    assert [point["step"] for point in points] == [1, 2, 3, 4, 5, 6]


def test_a_hostile_chart_title_stays_inside_the_page() -> None:
    chart = charts.line("</script><script>x", "c", [{"a": 1, "b": 2}], x=("a", "a"), y=("b", "b"))
    table = Table(title="<i>", columns=(Column(key="a", title="<u>"),), rows=(("<script>",),))
    text = page_html(Page(title="<b>", lead="<p>", sections=(Section(heading="h", tables=(table,), charts=(chart,)),)))
    shell = text.replace(charts.bundle(), "")
    assert shell.count("<script") == 3
    specs = re.search(r'id="chart-specs">(.*?)</script>', shell, re.DOTALL)
    assert specs is not None
    assert list(json.loads(specs.group(1))) == ["</script><script>x"]


def test_what_could_turn_or_hide_a_page_s_text_is_written_out() -> None:
    page = Page(
        title="a\x1b[31m", lead="b\u202e", sections=(Section(heading="c\x00", text=("d\u2066",), code="e\n\tf\x07"),)
    )
    text = page_html(page)
    for shown in (r"a\x1b[31m", r"b\u202e", r"c\x00", r"d\u2066", "e\n\tf\\x07"):
        assert shown in text
    assert not set(text) & set("\x00\x07\x1b\u202e\u2066")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("http://u:p@h/x", "http://***@h/x"), ("mailto:me@x", "mailto:me@x"), ("https://h/a@b", "https://h/a@b")],
)
def test_user_and_password_of_an_address_are_blanked(text: str, shown: str) -> None:
    assert without_userinfo(text) == shown
