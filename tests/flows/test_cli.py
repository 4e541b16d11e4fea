"""The command line: what it loads, and that every bad input ends in two lines and the right exit status."""

from __future__ import annotations

import errno
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from core.config import json_schema
from core.errors import BlockedByCheck
from core.events import ignore
from core.promote import Pointer, promote
from core.runs import RunRecord, RunStatus, write_run
from core.workspace import locked, open_workspace
from flows.cli import configuration
from flows.cli.main import _known, refuse_windows
from flows.cli.main import run as run_here
from flows.cli.session import from_here
from tests.core import published_chain

ROOT = Path(__file__).parents[2]
HEAVY = ("prefect", "pydantic", "rich", "torch", "apprise", "duckdb", "altair")


def edgekiln(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli.main", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], status: int, code: str) -> None:
    assert done.returncode == status, done.stderr
    problem, remedy = done.stderr.strip().splitlines()[-2:]
    assert problem.startswith(f"[{code}] ")
    assert remedy.startswith("Fix: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    program = f"import sys, flows.cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    done = edgekiln("--help")
    assert done.returncode == 0
    for command in (
        "run",
        "search",
        "env",
        "label",
        "bench",
        "show",
        "trace",
        "runs",
        "status",
        "models",
        "config",
        "init",
        "db",
    ):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("run", "--profile", "dem"), "config-unknown-profile"),
        (("run", "--set", "train.lora.rr=3"), "config-bad-value"),
        (("run", "--set", "train.lora.r=0"), "config-bad-value"),
        (("run", "--set", "no sign"), "config-bad-value"),
        (("run", "--force", "labels"), "usage"),
        (("run", "--set", "gone.yaml"), "config-bad-value"),
        (("search", "--set", "search.space.r=[]"), "config-bad-value"),
        (("search", "--trials", "0"), "config-bad-value"),
        (("search", "--set", "train.per_device_train_batch_size=3"), "config-bad-value"),
        (("run", "--wat"), "usage"),
        (("nope",), "usage"),
        (("show",), "usage"),
    ],
)
def test_a_mistake_in_the_command_line_is_told_before_anything_is_written(
    arguments: tuple[str, ...], code: str, tmp_path: Path
) -> None:
    refused(edgekiln(*arguments, cwd=tmp_path), 2, code)
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_of_a_configuration_are_told_at_once_with_the_nearest_key() -> None:
    done = edgekiln("config", "check", "demo", "--set", "train.lora.rr=3", "--set", "label.temperature=9")
    refused(done, 2, "config-bad-value")
    assert "train.lora.rr" in done.stderr
    assert "label.temperature=9" in done.stderr


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "data-missing"),
        (b"", "data-empty"),
        ("{}".encode("utf-16"), "data-not-utf8"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_a_data_error(content: bytes | None, code: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    refused(edgekiln("data", path, "--workspace", tmp_path / "ws"), 3, code)
    assert not list((tmp_path / "ws" / "artifacts").rglob("*"))


def test_broken_json_on_line_7_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"What is {n}?"}) for n in range(20)]
    lines[6] = '{"prompt": '
    path.write_text("\n".join(lines), encoding="utf-8")
    done = edgekiln("data", path, "--workspace", tmp_path / "ws", "--set", "data.max_rejected_share=0")
    refused(done, 3, "data-broken-record")
    assert "prompts.jsonl:7" in done.stderr


def test_a_workspace_that_cannot_be_written_is_an_environment_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(edgekiln("env", "--workspace", tmp_path / "file" / "ws"), 4, "env-workspace-unwritable")


def test_too_little_disk_space_blocks_the_run(tmp_path: Path) -> None:
    quick = ("--role", "bench-host", "--set", "env.measure_s=0.02")
    done = edgekiln("env", "--workspace", tmp_path / "ws", "--set", "env.min_free_disk_gb=1e9", *quick)
    assert done.returncode == 4, done.stderr
    assert "env.min_free_disk_gb 1e+09" in done.stdout
    problem, remedy = done.stderr.strip().splitlines()[-2:]
    assert problem.startswith("[env-blocked] disk ")
    assert remedy.startswith("Fix: Free some space")


def test_native_windows_is_sent_to_wsl_before_anything_is_loaded() -> None:
    with pytest.raises(BlockedByCheck) as caught:
        refuse_windows("nt")
    assert "wsl --install" in caught.value.remedy
    refuse_windows(os.name)


@pytest.mark.parametrize("command", ["run", "data"])
def test_a_second_run_in_one_workspace_is_told_who_holds_it(command: str, tmp_path: Path) -> None:
    with locked(open_workspace(tmp_path / "ws"), "edgekiln run"):
        done = edgekiln(command, "--workspace", tmp_path / "ws")
    refused(done, 4, "env-workspace-locked")
    assert f"process {os.getpid()}" in done.stderr


def test_a_manifest_edited_by_hand_is_not_shown_as_if_it_were_true(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "ws")
    gguf, _ = published_chain.chain(workspace)
    folder = workspace.folder(gguf.stage, gguf.artifact_id)
    (folder / gguf.quantisations[0].path).write_bytes(b"tampered")
    refused(edgekiln("show", gguf.artifact_id, "--workspace", workspace.root), 1, "artifact-file-tampered")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("1.39", "0.39"), encoding="utf-8")
    refused(edgekiln("show", gguf.artifact_id, "--workspace", workspace.root), 1, "artifact-manifest-broken")
    refused(edgekiln("trace", gguf.artifact_id, "--workspace", workspace.root), 1, "artifact-manifest-broken")


def test_status_names_an_artifact_whose_manifest_was_edited(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "ws")
    gguf, _ = published_chain.chain(workspace)
    manifest = workspace.folder(gguf.stage, gguf.artifact_id) / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("1.39", "0.39"), encoding="utf-8")
    done = edgekiln("status", "--json", "--workspace", workspace.root)
    rows = {row["artifact"]: row["verdict"] for row in json.loads(done.stdout)["artifacts"]["rows"]}
    assert rows[gguf.artifact_id] == "broken"


def test_ctrl_c_that_a_library_wraps_in_an_error_of_its_own_is_still_a_stop() -> None:
    program = (
        "import os, signal, sys; from flows.cli import look, main\n"
        "def status():\n"
        "    try: os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt: pass\n"
        "    raise ValueError('wrapped')\n"
        "look.status = status; sys.exit(main.run(['status']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    refused(done, 130, "interrupted")


def test_a_name_that_leads_out_of_the_workspace_finds_nothing(tmp_path: Path) -> None:
    refused(edgekiln("show", "../../etc/passwd", "--workspace", tmp_path / "ws"), 1, "artifact-missing")


def test_the_commands_that_look_answer_in_text_and_in_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own handler
    workspace = open_workspace(tmp_path / "ws")
    gguf, run = published_chain.chain(workspace)
    for command in (
        ["status"],
        ["runs"],
        ["models"],
        ["models", "known"],
        ["show", gguf.artifact_id[:8]],
        ["trace", run.artifact_id],
    ):
        where = ("--workspace", str(workspace.root))
        assert run_here([*command, *where]) == 0
        assert len(capsys.readouterr().out) > 40
        assert run_here([*command, "--json", *where]) == 0
        assert json.loads(capsys.readouterr().out)


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m flows.cli.main config schema | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_of_the_help_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m flows.cli.main --help | head -1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [(("init", "{}/mine"), 4, "environment"), (("config", "schema", "--output", "{}/schema.json"), 2, "usage")],
)
def test_a_file_that_cannot_be_written_is_no_mistake_in_edgekiln(
    arguments: tuple[str, ...], status: int, code: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = edgekiln(*(word.format(tmp_path / "file") for word in arguments))
    refused(done, status, code)
    assert f"{tmp_path}/file" in done.stderr
    assert "mistake" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_our_characters_is_no_error(encoding: str) -> None:
    program = [sys.executable, "-m", "flows.cli.main", "models", "known"]
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(program, cwd=ROOT, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"smollm2" in done.stdout


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m flows.cli.main models known {closed}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_told_with_its_place() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "that holds .edgekiln" in str(_known(full, ["env"]))
    assert "that holds here" in str(_known(full, ["env", "--workspace=here"]))
    assert "that holds there" in str(_known(full, ["env", "--workspace", "there"]))
    assert "that holds /a/b" in str(_known(OSError(errno.ENOSPC, "No space left on device", "/a/b"), ["env"]))


def test_the_log_of_crashes_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path))
    (tmp_path / "crash.log").write_bytes(b"x" * 2_000_000)
    assert "see" in _known(ValueError("y"), ["env"]).remedy
    kept = (tmp_path / "crash.log").read_text(encoding="utf-8")
    assert len(kept) <= 1 << 20
    assert kept.endswith("ValueError: y\n")


def test_a_data_warning_says_what_is_wrong_and_drives_no_terminal(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"What is {n}?"}) for n in range(20)]
    lines[6] = '{"prompt": root:x:0'
    lines[8] = json.dumps({"prompt": 5})
    lines[9] = json.dumps({"prompt": "\x1b[2J", "messages": 5, "\x1b[2J": 1})
    path.write_text("\n".join(lines), encoding="utf-8")
    log = tmp_path / "log"
    done = edgekiln("data", path, "--workspace", tmp_path / "ws", "--log-file", log)
    assert done.returncode == 0, done.stderr
    assert "prompts.jsonl:7: no JSON: Expecting value at column 12" in done.stderr
    assert "root:x:0" in done.stderr
    assert "prompt is not a text" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "data-json-broken" in log.read_text(encoding="utf-8")


def test_an_unexpected_error_is_two_lines_and_its_traceback_lies_in_a_file(tmp_path: Path) -> None:
    program = "import sys; from flows.cli import look, main; look.status = lambda: 1 / 0; sys.exit(main.run(['status']))"
    env = {**os.environ, "EDGEKILN_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    refused(done, 1, "other")
    assert "ZeroDivisionError" in (tmp_path / "crash.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_how_to_go_on(number: signal.Signals, status: int) -> None:
    program = (
        "import os, sys, time; from flows.cli import look, main;"
        f"look.status = lambda: (os.kill(os.getpid(), {int(number)}), time.sleep(5)); sys.exit(main.run(['status']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    refused(done, status, {130: "interrupted", 143: "terminated"}[status])
    assert "Go on with: edgekiln" in done.stderr


def test_init_writes_a_profile_that_is_sound_and_never_overwrites_one(tmp_path: Path) -> None:
    done = edgekiln("init", "mine", "--dataset", "prompts.jsonl", "--teacher", "qwen3-8b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "edgekiln run --profile mine.yaml" in done.stdout
    assert edgekiln("config", "check", "mine.yaml", cwd=tmp_path).returncode == 0
    before = (tmp_path / "mine.yaml").read_bytes()
    refused(edgekiln("init", "mine", cwd=tmp_path), 2, "usage")
    assert (tmp_path / "mine.yaml").read_bytes() == before
    refused(edgekiln("init", "other", "--student", "gpt-9", cwd=tmp_path), 2, "usage")


@pytest.mark.parametrize("name", ["", ".", "foo/", "-x", "journal", "a\nb", ".yaml", "x" * 81])
def test_init_refuses_a_name_that_makes_no_file_one_could_name(name: str, tmp_path: Path) -> None:
    refused(edgekiln("init", "--", name, cwd=tmp_path), 2, "usage")
    refused(edgekiln("init", "mine", "--dataset", "", cwd=tmp_path), 2, "usage")
    assert list(tmp_path.iterdir()) == []


def test_the_commands_that_init_prints_work_as_printed(tmp_path: Path) -> None:
    done = edgekiln("init", "a b", cwd=tmp_path)
    assert "edgekiln run --profile 'a b.yaml'" in done.stdout
    check = next(shlex.split(line) for line in done.stdout.splitlines() if "config check" in line)
    assert edgekiln(*check[1:], cwd=tmp_path).returncode == 0


def test_init_takes_the_end_of_input_for_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"prompts.jsonl\n\x04")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with os.fdopen(theirs, encoding="utf-8") as terminal, monkeypatch.context() as changed:
        changed.setattr(sys, "stdin", terminal)
        assert run_here(["init", "mine"]) == 2
    os.close(ours)
    assert "no answer for teacher" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_broken_card_of_the_users_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "edgekiln" / "models").mkdir(parents=True)
    (tmp_path / "edgekiln" / "models" / "mine.yaml").write_text("roles: [cook]", encoding="utf-8")
    for arguments in (["models", "known"], ["init", "new"]):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told = " ".join((done.stdout + done.stderr).split())
        assert "mine.yaml: roles.0='cook':" in told
        assert "smollm2-135m-instruct" in told or arguments == ["init", "new"]


@pytest.mark.parametrize("command", ["status", "runs", "show abcd", "trace abcd"])
def test_a_command_that_looks_makes_no_workspace(command: str, tmp_path: Path) -> None:
    refused(edgekiln(*command.split(), cwd=tmp_path), 1, "artifact-missing")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_looks_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    workspace = open_workspace(tmp_path / "ws")
    gguf, _ = published_chain.chain(workspace)
    for folder in ("staging", "quarantine", "ledger", "current", "runs"):
        (workspace.root / folder).rmdir()
    before = sorted((path, path.stat().st_mtime_ns) for path in workspace.root.rglob("*"))
    for command in (["status"], ["runs"], ["show", gguf.artifact_id.upper()], ["trace", gguf.artifact_id[:6]]):
        assert run_here([*command, "--workspace", str(workspace.root)]) == 0, capsys.readouterr().err
    assert sorted((path, path.stat().st_mtime_ns) for path in workspace.root.rglob("*")) == before


def test_show_takes_the_beginning_of_a_run_and_guesses_nothing(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path / "ws")
    published_chain.chain(workspace)
    write_run(
        workspace,
        RunRecord(
            run_id="20260101T000000-abc", profile="demo", config={}, started_at=datetime.now(UTC), status=RunStatus.RUNNING
        ),
    )
    where = ("--workspace", workspace.root)
    done = edgekiln("show", "20260101t", *where)
    assert done.returncode == 0, done.stderr
    assert "the run was killed" in done.stdout
    for guess in ("", "1", "2"):
        refused(edgekiln("show", guess, *where), 1, "artifact-missing")


def test_a_pointer_that_is_broken_or_leads_nowhere_is_a_row_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    workspace = open_workspace(tmp_path / "ws")
    gguf, _ = published_chain.chain(workspace)
    promote(workspace, "good", gguf, ignore)
    workspace.pointer("bad").write_text("{", encoding="utf-8")
    lost = Pointer(profile="lost", artifact_id="0" * 12, promoted_at=datetime.now(UTC))
    workspace.pointer("lost").write_text(lost.model_dump_json(), encoding="utf-8")
    assert run_here(["status", "--json", "--workspace", str(workspace.root)]) == 0
    current = json.loads(capsys.readouterr().out)["current"]
    assert {row["profile"]: row["state"] for row in current["rows"]} == {
        "bad": "broken",
        "good": "there",
        "lost": "missing",
    }
    assert "bad.json" in current["notes"][0]
    assert "makes it again" in current["notes"][1]


def test_an_empty_workspace_name_is_refused_and_a_tilde_is_the_home(tmp_path: Path) -> None:
    refused(edgekiln("status", "--workspace", ""), 2, "usage")
    refused(edgekiln("status", "--workspace", "~nosuchuser/ws"), 2, "usage")
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli.main", "data", "builtin:python-docs", "--workspace=~/ws"],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "EDGEKILN_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ws" / "artifacts" / "data").is_dir()


def test_paths_are_told_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    for told, written in {
        f"files: {tmp_path}/here/ws/a b": "files: ws/a b",
        f"--workspace {tmp_path}/here": "--workspace .",
        f"'{tmp_path}/here/a b'": "'a b'",
        f"{tmp_path}/hereafter/x": "~/hereafter/x",
        f"{tmp_path}": "~",
        f"/x{tmp_path}/here/y": f"/x{tmp_path}/here/y",
        "no path": "no path",
    }.items():
        assert from_here(told) == written
    workspace = open_workspace(Path("ws"))
    gguf, _ = published_chain.chain(workspace)
    done = edgekiln("show", gguf.artifact_id, "--workspace", "ws", cwd=tmp_path / "here")
    assert f"files: ws/artifacts/export/{gguf.artifact_id}" in done.stdout


@pytest.mark.parametrize("profile", ["demo", "desktop", "pi5", "tutor-tinyllama", "assistant-qwen-bilingual"])
def test_every_shipped_profile_and_its_cards_are_sound(profile: str) -> None:
    configuration.check(profile)


def test_the_generated_schema_is_current() -> None:
    written = (ROOT / "configs" / "schemas" / "profile.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == json_schema()


def run_without(package: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.modules[{package!r}] = None; from flows.cli.main import run; sys.exit(run({list(words)}))"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("package", ["yaml", "pydantic", "packaging"])
def test_a_package_that_is_missing_is_two_lines_and_says_who_can_mend_it(package: str) -> None:
    done = run_without(package, "env", "fix")
    refused(done, 4, "env-tool-missing")
    assert f"the package {package} is missing or broken" in done.stderr
    assert f"env fix --python {sys.executable}" in done.stderr


def test_an_import_that_fails_in_our_own_rooms_is_a_mistake_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path))
    assert (
        "mistake in edgekiln" in _known(ImportError("cannot import name 'x' from 'core.y'", name="core.y"), ["env"]).remedy
    )


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_uid: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "EDGEKILN_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "LOGNAME", "USER"):
        monkeypatch.delenv(name, raising=False)
    for name in ("LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_home_is_told_which_folders_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(["models", "known"]) == 4
    told = capsys.readouterr().err
    assert told.startswith("[environment] this user has no home folder")
    assert "EDGEKILN_CACHE" in told
    assert "no crash log" in _known(ValueError("y"), ["env"]).remedy


@pytest.mark.usefixtures("homeless")
def test_a_user_without_home_who_names_the_folders_can_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("EDGEKILN_CACHE", "XDG_CONFIG_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert run_here(["models", "known"]) == 0
    assert run_here(["bug-report", "-o", str(tmp_path / "report.md"), "--workspace", str(tmp_path / "ws")]) == 0
    assert "is written" in capsys.readouterr().out


def test_a_crash_log_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path / "file"))
    assert "could not be written" in _known(ValueError("y"), ["env"]).remedy
