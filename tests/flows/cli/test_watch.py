"""`edgekiln train watch`: the view as a person sees it at every width, as a program reads it, and live in a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from core.contract import Stage
from core.train.metrics import Metrics
from flows.cli.main import run
from tests.core.train.sample_trainings import TRAINING, begun, close

ROOT = Path(__file__).parents[3]


@pytest.fixture
def training(workspace):
    """A training of 5 steps that was killed after a rollback and whose files name hostile things."""
    metrics = begun(workspace)
    metrics.held_out(5, 1.5)
    metrics.beside(layer_grad_norms={"3": 0.25, "other": 0.5})
    record = {"step": 6, "loss": 0.7, "learning_rate": 1e-3, "grad_norm": 0.5, "trained_tokens": 30}
    metrics.write(record, tokens=40)
    close(metrics)
    decisions = [
        {"decision": "resumed", "step": 3},
        {"decision": "rolled-back", "at": "2026-11-21T14:03:09Z", "step": 5, "reason": "a spike \x1b[31m", "to_step": 4},
    ]
    path = workspace.staging(Stage.TRAIN, TRAINING) / "content" / "decisions.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in decisions), encoding="utf-8")
    return workspace


def shown(capsys, workspace, *arguments: str) -> str:
    assert run(["train", "watch", "--workspace", str(workspace.root), *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [30, 45, 80, 120])
def test_everything_is_said_in_words_and_nothing_is_wider_than_the_terminal(training, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    text = shown(capsys, training, "--once")
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    words = " ".join(text.split())
    for said in (
        f"training {TRAINING} of tiny: killed",
        "6/40 steps",
        "loss 0.7000 at step 6",
        "held-out loss 1.5000 at step 5, best 1.5000 at step 5",
        "gradient norm",
        "learning rate 1.00e-03",
        "largest gradient norms at step 6: layer other 0.5, layer 3 0.25",
        "newest checkpoint: none yet",
        "step 3: resumed",
        "14:03:09 step 5: rolled-back: a spike \\x1b[31m, to_step 4",
    ):
        assert said in words
    assert re.search("[\u2801-\u28ff]", text)


def test_a_terminal_without_unicode_gets_ascii(training):
    argv = [sys.executable, "-m", "flows.cli.main", "train", "watch", "--once", "--workspace", str(training.root)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, env=environment, check=True)
    text = done.stdout.decode("ascii")
    assert "|*" in text
    assert "[" not in text.replace("\\x1b[31m", "")
    assert "####..." in text


def test_a_program_gets_one_document_without_numbers_that_are_none(training, capsys):
    document = json.loads(shown(capsys, training, "--json"), parse_constant=pytest.fail)
    assert (document["training"], document["state"], document["last"]["step"]) == (TRAINING, "killed", 6)
    assert [bucket["step"] for bucket in document["curve"]] == [1, 2, 3, 4, 5, 6]
    assert document["decisions"][1]["to_step"] == 4


def test_what_is_not_there_or_makes_no_sense_is_an_error(workspace, capsys, tmp_path):
    assert run(["train", "watch", "--workspace", str(workspace.root)]) == 1
    assert "no training in" in capsys.readouterr().err
    assert run(["train", "watch", "--workspace", str(tmp_path / "nowhere")]) == 1
    assert "no workspace at" in capsys.readouterr().err
    assert run(["train", "watch", "--every", "0", "--workspace", str(workspace.root)]) == 2
    assert run(["train", "watch", "feed", "--workspace", str(workspace.root)]) == 1


class Screen:
    """The command in a terminal of its own, 80 by 24."""

    def __init__(self, workspace_root: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        argv = [
            sys.executable,
            "-m",
            "flows.cli.main",
            "train",
            "watch",
            "--every",
            "0.2",
            "--workspace",
            str(workspace_root),
        ]
        environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
        environment |= {"TERM": "xterm-256color", "PYTHONUTF8": "1"}
        self.child = subprocess.Popen(argv, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self.text = ""

    def read(self) -> bool:
        """Take in what was drawn; False when the command has ended and all is read."""
        try:
            data = os.read(self._ours, 1 << 16)
        except BlockingIOError:
            time.sleep(0.02)
            return True
        except OSError:  # the terminal's other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def until(self, said: str) -> None:
        deadline = time.monotonic() + 60
        while said not in self.text:
            assert self.read(), self.text
            assert time.monotonic() < deadline, self.text


def test_it_is_drawn_live_while_the_training_goes_on_and_ends_with_it(workspace):
    metrics: Metrics = begun(workspace)
    screen = Screen(workspace.root)
    screen.until("5/40 steps")
    record = {"step": 6, "loss": 0.321, "learning_rate": 1e-3, "grad_norm": 0.5, "trained_tokens": 30}
    metrics.write(record, tokens=40)
    screen.until("6/40 steps")
    assert "\x1b[?1049h" in screen.text  # the other screen, so that what stood in the terminal comes back
    close(metrics)
    while screen.read():
        pass
    assert screen.child.wait(30) == 0
    final = screen.text.rpartition("\x1b[?1049l")[2]
    assert "killed" in final
    assert "loss 0.3210 at step 6" in final
