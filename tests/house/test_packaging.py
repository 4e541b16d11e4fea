"""What is installed: every package pinned, one version source, small machines small, a wheel with its data, make's plan."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import core
from core.toolchain_build import VERSION

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def closure(requirements: list[str]) -> set[str]:
    """Return the names of all packages that requirements bring here, by what is installed."""
    todo = [(Requirement(text), frozenset({""})) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        wanted, extras = todo.pop()
        if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        key = (canonical(wanted.name), frozenset(wanted.extras))
        if key not in seen:
            seen.add(key)
            inner = frozenset(wanted.extras) | {""}
            todo += [(Requirement(text), inner) for text in metadata.requires(wanted.name) or []]
    return {name for name, _ in seen}


def test_every_package_that_the_extras_bring_is_pinned() -> None:
    installed = [text for name, extra in EXTRAS.items() if name != "peers" for text in extra]
    everything = closure(PROJECT["dependencies"] + installed) | {
        canonical(Requirement(text).name) for text in EXTRAS["peers"]
    }
    cuda = {name for name in everything if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert sorted(everything - cuda - set(pins())) == []
    assert sorted(set(pins()) - everything - {"setuptools"}) == []


def test_every_pin_is_exact_and_meets_what_the_project_asks() -> None:
    assert not [line for line in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", line[1])]
    for text in PROJECT["dependencies"] + [text for extra in EXTRAS.values() for text in extra]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins()[canonical(wanted.name)]), text


def test_what_must_fit_together_is_pinned_in_the_project_itself() -> None:
    assert {"prefect==3.8.8", "fastapi==0.150.0"} <= set(EXTRAS["flow"])
    assert "torch==2.13.0" in EXTRAS["train"]
    assert f"llama-cpp-python=={VERSION}" in EXTRAS["teacher"]


def test_there_is_one_version_source() -> None:
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    assert metadata.version("edgekiln") == core.__version__


def test_core_imports_with_the_base_packages_alone(tmp_path: Path) -> None:
    base = closure(PROJECT["dependencies"])
    owners = metadata.packages_distributions()
    blocked = [name for name, owned in owners.items() if not {canonical(owner) for owner in owned} & (base | {"edgekiln"})]
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "core").rglob("*.py"))
        if path.name != "worker.py"
    ]
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(blocked)!r}))\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert {"torch", "prefect", "llama_cpp", "transformers", "accelerate"} <= set(blocked)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The members of the wheel built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("core", "tasks", "flows", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    argv = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "out", "."]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("out/*.whl"))) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_that_the_code_reads(wheel: set[str]) -> None:
    wanted = [
        path.relative_to(ROOT).as_posix()
        for room in ("core", "tasks", "flows", "configs")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sorted(set(wanted) - wheel) == []
    assert f"edgekiln-{core.__version__}.dist-info/licenses/LICENSE" in wheel


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel} <= {
        "core",
        "tasks",
        "flows",
        "configs",
        f"edgekiln-{core.__version__}.dist-info",
    }


def plan(target: str, venv: Path) -> str:
    argv = ["make", "--dry-run", "--no-print-directory", target, f"VENV={venv}"]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_setup_does_nothing_when_warm_and_runs_again_after_a_change_of_pins(tmp_path: Path) -> None:
    assert "pip" in plan("setup", tmp_path)
    stamp = tmp_path / ".edgekiln-setup"
    stamp.touch()
    newest = max((ROOT / name).stat().st_mtime for name in ("pyproject.toml", "constraints.txt"))
    os.utime(stamp, (newest + 1, newest + 1))
    assert "pip" not in plan("setup", tmp_path)
    os.utime(stamp, (newest - 1, newest - 1))
    assert "pip" in plan("setup", tmp_path)


def test_make_demo_and_make_test_set_up_first(tmp_path: Path) -> None:
    for target, last in (("demo", "edgekiln run --profile demo"), ("test", '-m "not full"')):
        steps = plan(target, tmp_path)
        assert 0 < steps.index("edgekiln toolchain build") < steps.index(last)


def test_make_wheelhouse_brings_the_pinned_set_the_archive_and_the_pins(tmp_path: Path) -> None:
    steps = plan("wheelhouse", tmp_path)
    wheels = 'pip --disable-pip-version-check wheel --wheel-dir "wheelhouse" -c constraints.txt'
    assert 0 < steps.index("edgekiln toolchain build") < steps.index(wheels)
    assert 'constraints.txt "wheelhouse"' in steps


def test_make_names_an_old_python_and_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    argv = ["make", "setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "[env-tool-missing] Python 3.9.2 < 3.11" in done.stderr
    assert "Fix: install Python 3.11" in done.stderr


def test_the_walls_are_the_same_at_home_before_a_commit_and_on_the_server() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "mypy", "lint-imports"]
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["gate"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert job["steps"][-1]["run"] == ".ci/run"
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").rstrip().endswith("make test")
    subprocess.run([sys.executable, "-m", "pre_commit", "validate-config"], cwd=ROOT, check=True)


def test_results_are_written_from_what_tests_recorded_and_keep_what_was_not_run(tmp_path: Path) -> None:
    junit, target = tmp_path / "junit.xml", tmp_path / "RESULTS.md"
    argv = [sys.executable, str(ROOT / "tests/benchmarks/write_results.py"), str(target), str(junit)]

    def written(module: str, value: str, *others: str) -> str:
        figure = f'<properties><property name="help_s" value="{value}"/></properties>'
        case = f'<testcase classname="tests.benchmarks.{module}" name="test_help_is_fast">{figure}</testcase>'
        suite = '<properties><property name="commit" value="abc1234"/></properties>'
        junit.write_text(
            f'<testsuites><testsuite timestamp="2026-01-02T03:04:05">{suite}{case}{"".join(others)}</testsuite></testsuites>'
        )
        subprocess.run(argv, check=True)
        return target.read_text(encoding="utf-8")

    written("test_a", "0.21", '<testcase classname="tests.core.test_x" name="test_b"><failure/></testcase>')
    written("test_b", "0.3")
    text = written("test_a", "0.5")
    assert "2026-01-02 03:04Z, commit abc1234" in text
    assert "## tests\n" in text
    assert "0 passed, 1 failed, 0 skipped" in text
    assert text.count("- failed: `tests/core/test_x.py::test_b`") == 1
    assert [line for line in text.splitlines() if "help_s" in line] == [
        "| help is fast | help_s | 0.5 |",
        "| help is fast | help_s | 0.3 |",
    ]
