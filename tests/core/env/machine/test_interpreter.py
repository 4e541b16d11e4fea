"""The interpreter: real virtual environments, whole and broken, and another one than the project was installed in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.contract import Finding, Severity
from core.env.machine.interpreter import Interpreter, interpreter_findings, kind_of, read_interpreter, venv_settings

ROOT = Path(__file__).parents[4]
READ = (
    "import json, sys; from core.env.machine.interpreter import read_interpreter, interpreter_findings;"
    "found = read_interpreter(json.loads(sys.argv[1]));"
    "print(json.dumps([f.model_dump(mode='json') for f in interpreter_findings(found)]))"
)


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real virtual environment that borrows the packages of this one, the project itself left out."""
    folder = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    own = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    for path in own.iterdir():
        if "edgekiln" not in path.name and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    return folder


def told(venv: Path, variables: dict[str, str] | None = None) -> list[Finding]:
    argv = [venv / "bin/python", "-c", READ, json.dumps(variables or {})]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, cwd=venv, capture_output=True, text=True, check=True)
    return [Finding.model_validate(value) for value in json.loads(done.stdout)]


def facts() -> Interpreter:
    return read_interpreter({}).model_copy(
        update={
            "prefix": "/env",
            "installed_in": "/env/lib",
            "installed_from": None,
            "project_version": "1",
            "wanted": ">=3.11",
            "version": "3.12.1",
            "configured_version": "3.12.1",
            "home_exists": True,
        }
    )


def test_this_interpreter_is_read_as_it_is() -> None:
    found = read_interpreter({"VIRTUAL_ENV": sys.prefix, "JPY_PARENT_PID": "7"})

    assert found.executable == sys.executable
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.notebook
    assert found.running_from == str(ROOT)
    assert interpreter_findings(facts()) == []


def test_an_interpreter_without_the_project_is_told_so(venv: Path) -> None:
    (finding,) = told(venv)

    assert (finding.code, finding.severity) == ("interpreter", Severity.ERROR)
    assert str(venv) in finding.evidence
    assert finding.remedy_argv == ("make", "setup")


def test_a_virtual_environment_whose_python_was_replaced_is_broken(venv: Path) -> None:
    cfg = venv / "pyvenv.cfg"
    whole = cfg.read_text(encoding="utf-8")
    try:
        cfg.write_text(whole.replace("version = 3", "version = 2"), encoding="utf-8")
        replaced = [finding for finding in told(venv) if finding.code == "venv"]
        cfg.write_text("\n".join(["home = /gone/bin", *whole.splitlines()[1:]]), encoding="utf-8")
        removed = [finding for finding in told(venv) if finding.code == "venv"]
    finally:
        cfg.write_text(whole, encoding="utf-8")

    assert "pyvenv.cfg: version = 2" in replaced[0].evidence
    assert "home = /gone/bin is not there" in removed[0].evidence
    assert replaced[0].remedy_argv[:4] == ("python3", "-m", "venv", "--clear")


def test_another_environment_that_is_activated_is_named(venv: Path, tmp_path: Path) -> None:
    found = [f for f in told(venv, {"VIRTUAL_ENV": str(tmp_path)}) if "is activated" in f.evidence]

    assert found[0].severity is Severity.WARNING
    assert not [f for f in told(venv, {"VIRTUAL_ENV": str(venv)}) if "is activated" in f.evidence]


def test_python_outside_the_projects_range_blocks() -> None:
    (finding,) = interpreter_findings(facts().model_copy(update={"version": "3.10.4", "configured_version": "3.10.4"}))

    assert (finding.code, finding.severity) == ("python", Severity.ERROR)
    assert interpreter_findings(facts().model_copy(update={"version": "3.13.0rc1", "configured_version": None})) == []


def test_a_project_installed_elsewhere_or_run_from_another_copy_is_a_warning() -> None:
    elsewhere = interpreter_findings(facts().model_copy(update={"installed_in": "/other/lib"}))
    copy = interpreter_findings(facts().model_copy(update={"installed_from": "/another/copy"}))

    assert [f.severity for f in elsewhere + copy] == [Severity.WARNING, Severity.WARNING]
    assert "/other/lib" in elsewhere[0].evidence
    assert "/another/copy" in copy[0].evidence


def test_the_kind_of_an_environment_is_told(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()

    assert kind_of(str(tmp_path), str(tmp_path)) == "conda environment"
    assert kind_of("/a", "/b") == "virtual environment"
    assert kind_of("/a", "/a") == "no virtual environment"
    assert venv_settings(tmp_path / "none.cfg") == {}
