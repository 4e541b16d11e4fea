"""The commands that mend, lock and compare, on a real environment that lacks and breaks what the project asks for."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from core.env import packages
from core.env.faults import read_pins
from core.env.project import constraints
from flows.cli import main
from tests.core.env import test_compare, venvs

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def nothing_but_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)  # pytest keeps its own handler
    monkeypatch.setenv("EDGEKILN_WORKSPACE", str(tmp_path / "ws"))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)


def asked() -> dict[str, str]:
    """What the project asks for, in versions that serve, by the names that wheels have."""
    pins = read_pins(constraints())
    return {wanted.name: pins[str(canonicalize_name(wanted.name))] for wanted in packages.requirements()}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty wheel for everything the project asks for, and some in wrong versions."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, version in {**asked(), "edgekiln": "0.1.0"}.items():
        venvs.make_wheel(folder, name.replace("-", "_"), version)
    venvs.make_wheel(folder, "trl", "0.1")
    return folder


@pytest.fixture(scope="module")
def made(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with all of it, but no peft and an old trl."""
    python = venvs.make_venv(tmp_path_factory.mktemp("made") / "venv")
    whole = {**asked(), "edgekiln": "0.1.0", "trl": "0.1"}
    venvs.put(python, *(f"{name}=={version}" for name, version in whole.items() if name != "peft"), source=wheels)
    return python


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = main.run([*map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_plan_changes_nothing_apply_mends_and_rollback_goes_back(
    made: Path, wheels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--python", made, "--installer", "pip", "--wheelhouse", wheels)
    before = venvs.freeze(made)

    status, out, _ = run(capsys, "env", "fix", *where, "--json")
    plan = json.loads(out)
    assert status == 0
    assert {fault["name"]: fault["kind"] for fault in plan["faults"]} == {"peft": "missing", "trl": "wrong version"}
    assert f"trl=={asked()['trl']}" in plan["commands"][0]
    assert venvs.freeze(made) == before

    status, out, err = run(capsys, "env", "fix", *where, "--apply", "--yes", "--json")
    done = json.loads(out)
    assert status == 0, err
    assert (done["faults_before"], done["faults_after"]) == (2, 0)
    assert venvs.freeze(made) != before

    status, out, err = run(capsys, "env", "fix", "--python", made, "--rollback")
    assert status == 0, err
    assert "byte for byte" in out
    assert venvs.freeze(made) == before


QUESTION = """
import sys, time
from core.env.repair import Plan
from core.env import repair
from core.events import Progress
from flows.cli import env_repair, terminal

terminal._SHOW_AFTER_S = 0.0
def preview(plan, scratch, sink):
    sink(Progress(stage=None, task="installing", done=1, total=None, unit="s"))
    time.sleep(0.3)
    return "Would install alpha"
repair.preview = preview
class Stub:
    doable = (1,)
    def only(self, chosen): return len(tuple(chosen))
env_repair._faults_table = lambda plan: None
env_repair.drawn = lambda table: "the table"
env_repair._ask_all(Stub(), None, terminal.Terminal(verbose=False), yes=False)
"""


def everything_shown(terminal: int) -> str:
    """Return what was written to a terminal whose other end is closed; one read gives at most 4 kB of it."""
    shown = b""
    with contextlib.suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:  # at the end Linux says EIO
        while data := stream.read(1 << 16):
            shown += data
    return shown.decode()


def test_a_question_is_seen_whole_after_the_bar_is_gone() -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"n\n")
    argv = [sys.executable, "-c", QUESTION]
    env = {**os.environ, "TERM": "xterm"}
    subprocess.run(argv, cwd=ROOT, stdin=theirs, stderr=theirs, env=env, check=True, timeout=60)
    os.close(theirs)
    shown = everything_shown(ours)
    assert "installing" in shown
    assert shown.endswith("Do this? A snapshot is taken first [y/N] ")


def told_on_a_terminal(answers: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command whose standard input is a terminal where somebody types."""
    ours, theirs = pty.openpty()
    os.write(ours, answers.encode())
    try:
        argv = [sys.executable, "-m", "flows.cli.main", *map(str, arguments)]
        return subprocess.run(argv, cwd=ROOT, stdin=theirs, capture_output=True, text=True, check=False, timeout=300)
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.full
def test_a_no_changes_nothing_and_the_guided_way_asks_for_each_step(made: Path, wheels: Path) -> None:
    where = ("--python", made, "--installer", "pip", "--wheelhouse", wheels)
    before = venvs.freeze(made)
    done = told_on_a_terminal("n\n", "env", "fix", *where, "--apply")
    assert (done.returncode, done.stdout) == (0, "Nothing was changed.\n")
    assert "Would install" in done.stderr
    assert venvs.freeze(made) == before

    done = told_on_a_terminal("y\nn\n", "env", "fix", *where, "--guided")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("likely cause:") == 2
    assert "1 of 2" in done.stderr
    assert "faults before: 1" in done.stdout
    changed = set(venvs.freeze(made).splitlines()) ^ set(before.splitlines())
    assert len({line.split(b"==")[0] for line in changed}) == 1
    assert main.run(["env", "fix", "--python", str(made), "--rollback"]) == 0
    assert venvs.freeze(made) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--apply",),
        ("--guided",),
        ("--yes",),
        ("--rollback", "--apply", "--yes"),
        ("--snapshot", "x"),
        ("--wheelhouse", "."),
    ],
)
def test_what_cannot_go_together_and_what_nobody_can_answer_is_refused(
    arguments: tuple[str, ...],
    made: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = venvs.looked(made, tmp_path).versions()
    status, out, err = run(capsys, "env", "fix", "--python", made, *arguments)
    assert (status, out) == (2, "")
    assert "[usage]" in err
    assert venvs.looked(made, tmp_path).versions() == before


def test_a_lock_is_written_and_verified(
    made: Path, wheels: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, where = tmp_path / "requirements.lock", ("--python", made, "--wheelhouse", wheels)
    status, out, _ = run(capsys, "env", "lock", *where, "-o", path)
    assert (status, f"{path} locks {len(asked())} packages" in out) == (0, True)
    assert run(capsys, "env", "lock", *where, "--verify", path, "--strict")[:2] == (
        0,
        f"the environment is as {path} has it\n",
    )

    status, out, _ = run(capsys, "env", "lock", "--python", made, "--verify", path)
    assert status == 0
    assert "the environment is as" not in out
    assert f"{len(asked())} packages' archive hashes could not be checked: name a folder" in out

    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:-1]), encoding="utf-8")
    assert run(capsys, "env", "lock", *where, "--verify", path)[0] == 0
    status, out, err = run(capsys, "env", "lock", *where, "--verify", path, "--strict", "--json")
    assert (status, "[gate-refused]" in err) == (5, True)
    assert [one["kind"] for one in json.loads(out)["differences"]] == ["not locked"]

    path.write_text("\n".join(lines).replace("trl==0.1 ", "trl==0.2 "), encoding="utf-8")
    status, out, err = run(capsys, "env", "lock", *where, "--verify", path)
    assert (status, "[env-blocked]" in err, "other version" in out) == (4, True, True)


def test_two_documents_are_compared_and_strictness_counts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good, worse = test_compare.document(), test_compare.document(roles={"trainer": "blocked"}, tools={"alpha": "2.0"})
    for name, document in (("a.json", good), ("b.json", worse)):
        (tmp_path / name).write_text(document.model_dump_json(warnings=False), encoding="utf-8")
    both = (tmp_path / "a.json", tmp_path / "b.json")
    status, out, _ = run(capsys, "env", "compare", *both)
    assert status == 0
    assert "regressed" in out
    assert "python -m pip install alpha==1.0" in out
    assert run(capsys, "env", "compare", *both, "--strict")[0] == 5
    assert run(capsys, "env", "compare", both[0], both[0])[:2] == (0, f"{both[0]} and {both[0]} tell the same\n")
    assert run(capsys, "env", "compare", both[0], tmp_path / "none")[0] == 2


def test_a_bug_report_is_written_and_hides_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_APPRISE_URL", "tgram://123456789:abcdefg_hijklmnop/12315544")
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "crash.log").write_text("tgram://123456789:abcdefg_hijklmnop/12315544", encoding="utf-8")
    status, out, _ = run(capsys, "bug-report", "--profile", "demo", "-o", tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (status, "nothing was sent" in out) == (0, True)
    assert "<MY_APPRISE_URL>" in text
    assert "abcdefg" not in text
    assert str(Path.home()) not in text
    assert '"student"' in text
