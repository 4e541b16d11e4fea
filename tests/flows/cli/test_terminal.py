"""The terminal's sink: what it leaves to others, and that nothing in a text or at the other end stops the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.contract import Finding, Severity, Stage
from core.events import Found, Note, Progress, RunFailed, StageStarted
from flows.cli.terminal import Terminal

ROOT = Path(__file__).parents[3]


def found(stage: Stage, severity: Severity) -> Found:
    finding = Finding(code="tight", severity=severity, where="/", evidence="4 GB", cause="small", remedy="Free some.")
    return Found(stage=stage, finding=finding)


def test_what_the_error_will_tell_is_not_told_before(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(verbose=False)
    terminal(found(Stage.ENV, Severity.ERROR))
    terminal(RunFailed(run_id="r", profile="demo", code="x", error="[x] bad"))
    terminal(StageStarted(stage=Stage.ENV, artifact_id="a"))
    assert capsys.readouterr().err == ""
    terminal(found(Stage.ENV, Severity.WARNING))
    terminal(found(Stage.DATA, Severity.ERROR))
    assert capsys.readouterr().err.count("tight at /: small; 4 GB. Free some.") == 2


def test_a_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(verbose=False)(Note(stage=None, text="root:x:0 [bold]b[/] \x1b[2J"))
    assert capsys.readouterr().err == "  root:x:0 [bold]b[/] \\x1b[2J\n"


def test_the_work_goes_on_when_nobody_reads_any_more() -> None:
    program = (
        "from core.events import Note; from flows.cli.terminal import Terminal; terminal = Terminal(verbose=False);"
        "[terminal(Note(stage=None, text='x' * 9999)) for _ in range(20)]; print('done')"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=writer, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_bar_and_a_calm_line_take_any_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.cli.terminal._CALM_S", 0.0)
    Terminal(verbose=False)(Progress(stage=None, task="asking [b] \x1b[2J", done=1, total=9, unit="answers"))
    assert capsys.readouterr().err == "  asking [b] \\x1b[2J: 1/9 answers\n"
    Terminal(verbose=False)(Progress(stage=None, task="reading", done=5_022_720, total=7_200_000, unit="bytes"))
    assert capsys.readouterr().err == "  reading: 5,022,720/7,200,000 bytes\n"
