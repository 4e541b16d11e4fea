"""The bug report: it tells what happened, and nothing secret is in it, wherever the secret lay."""

from __future__ import annotations

import traceback
from datetime import UTC, datetime
from pathlib import Path

from core import bug_report
from core.config import load
from core.contract import Stage
from core.env.host import read_host
from core.events import Note, RunFailed
from core.nouns import EnvReport
from core.redaction import Person
from core.runs import RunRecord, RunStatus, write_run
from core.sinks import EventsFile
from core.stage import Facts, Order, produce
from core.workspace import Workspace
from tests.core.env.test_compare import finding

KEY = "geheimer-schluessel-42"
APPRISE = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
HF = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
SECRETS = (KEY, APPRISE, "TIiajkdnlazkcOXrIdevi7FQ", HF, "marlene", "workbench7", "/Users/marlene")
ENVIRON = {"TEACHER_KEY": KEY, "ALERT": APPRISE, "HF_TOKEN": HF, "HOME": "/Users/marlene", "PATH": "/usr/bin"}
PERSON = Person(home=Path("/Users/marlene"), user="marlene", host="workbench7")


def failed_run(workspace: Workspace) -> None:
    config = load("demo").model_dump(mode="json")
    config["label"]["base_url"] = f"https://marlene:{KEY}@teacher.example/v1?key={KEY}"
    config["data"]["sources"] = ["/Users/marlene/prompts.jsonl"]
    error = f"[service-teacher] 401 from teacher.example with {KEY}\nFix: look at /Users/marlene/.netrc"
    now = datetime.now(UTC)
    record = RunRecord(run_id="r1", profile="demo", config=config, started_at=now, status=RunStatus.FAILED, error=error)
    write_run(workspace, record)
    with EventsFile(workspace.run_folder("r1") / "events.jsonl") as sink:
        sink(Note(stage=Stage.LABEL, text=f"no alert went out through {APPRISE}", level="warning"))
        sink(RunFailed(run_id="r1", profile="demo", code="service-teacher", error=error))
    with (workspace.run_folder("r1") / "events.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "cut sho')


def judged(workspace: Workspace) -> None:
    order = Order(noun=EnvReport, stage=Stage.ENV, version=1, config=load("demo").env)
    told = finding("disk").model_copy(update={"where": "/Users/marlene/work", "evidence": "0.1 GB free on workbench7"})
    produce(order, workspace, lambda _: None, lambda _: Facts(own={"host": read_host(), "findings": (told,)}, metrics={}))


def report(workspace: Workspace, tmp_path: Path) -> str:
    target, places = tmp_path / "report.md", {"cache": tmp_path / "cache", "scratch": tmp_path / "scratch"}
    target.write_text(bug_report.report(workspace, **places, environ=ENVIRON, person=PERSON), encoding="utf-8")
    return target.read_text(encoding="utf-8")


def test_it_tells_what_happened_and_hides_what_is_secret(workspace: Workspace, tmp_path: Path) -> None:
    failed_run(workspace)
    judged(workspace)
    crash = tmp_path / "cache" / "crash.log"
    crash.parent.mkdir()
    try:
        raise ValueError(f"token {HF} of marlene in /Users/marlene/x\n~~~~\nbehind the fence")
    except ValueError as error:
        crash.write_text("".join(traceback.format_exception(error)), encoding="utf-8")

    text = report(workspace, tmp_path)

    assert [secret for secret in SECRETS if secret in text] == []
    for told in (
        "Nothing was sent",
        "edgekiln 0.",
        "[service-teacher] 401 from teacher.example with <TEACHER_KEY>",
        "[warning] disk ~/work: 0.1 GB free on <host>",
        "no alert went out through <ALERT>",
        "ValueError: token <HF_TOKEN> of <user> in ~/x",
        '"base_url": "https://<hidden>@teacher.example/v1?key=<hidden>"',
        "~/prompts.jsonl",
        "pydantic 2.",
    ):
        assert told in text
    assert text.count("~~~~") == 2 * text.count("\n## ")


def test_it_is_written_for_an_empty_workspace_too(workspace: Workspace, tmp_path: Path) -> None:
    text = report(workspace, tmp_path)
    for told in (
        "`edgekiln env` writes one",
        "there are none",
        "no recent run failed",
        "none are recorded",
        "no run has one",
    ):
        assert told in text
