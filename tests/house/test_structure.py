"""The rules of the house that no linter knows: sizes, names, who may import and call what."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CODE = sorted(path for room in ("core", "tasks", "flows") for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets"}
BANNED_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
BANNED_ENDINGS = ("_v2", "_new", "_old", "_enhanced")
ENVIRONMENT_READERS = {"core/config.py", "core/process.py", "core/worker_process.py", "core/toolchain.py"}
SQL_ROOMS = ("core/benchdb/", "core/label/ledger.py", "core/label/ledger_exchange.py", "core/alerts/ledger.py")
MEASURING_ROOMS = ("core/bench/", "core/memory/", "core/telemetry.py", "core/benchdb/", "core/export/")
SQL = re.compile(r"\b(SELECT|INSERT INTO|CREATE TABLE|UPDATE|DELETE FROM)\b .*\b(FROM|VALUES|SET|\()", re.S)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def line_limit(path: Path) -> int:
    if name(path).startswith("tasks/"):
        return 50
    if name(path).startswith("flows/") and not name(path).startswith("flows/cli/"):
        return 100
    return 400


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_module_keeps_its_size_and_says_what_is_in_it(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= line_limit(path)
    assert ast.get_docstring(tree(path))


@pytest.mark.parametrize("path", [*CODE, *TESTS], ids=name)
def test_no_function_is_longer_than_50_lines(path: Path) -> None:
    nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in nodes if (node.end_lineno or 0) - node.lineno + 1 > 50]
    assert not long


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_module_has_a_name_that_says_something(path: Path) -> None:
    parts = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
    assert not parts & BANNED_NAMES
    assert not path.stem.endswith(BANNED_ENDINGS)


@pytest.mark.parametrize("path", CODE, ids=name)
def test_only_workers_import_the_heavy_libraries(path: Path) -> None:
    if path.name != "worker.py":
        assert not imports(path) & HEAVY


@pytest.mark.parametrize("path", CODE, ids=name)
def test_prefect_stays_in_flows_and_tasks(path: Path) -> None:
    if name(path).startswith("core/"):
        assert "prefect" not in imports(path)


@pytest.mark.parametrize("path", CODE, ids=name)
def test_programs_are_started_in_one_place(path: Path) -> None:
    if name(path) != "core/process.py":
        assert not imports(path) & {"subprocess", "multiprocessing", "pty"}


@pytest.mark.parametrize("path", CODE, ids=name)
def test_environment_variables_are_read_in_one_place(path: Path) -> None:
    if name(path) in ENVIRONMENT_READERS or name(path).startswith("flows/cli/"):
        return
    touched = [
        node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert not touched


@pytest.mark.parametrize("path", CODE, ids=name)
def test_sql_stays_in_its_rooms(path: Path) -> None:
    if name(path).startswith(SQL_ROOMS):
        return
    texts = [node.value for node in ast.walk(tree(path)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [text for text in texts if SQL.search(text)]


@pytest.mark.parametrize("path", [path for path in CODE if name(path).startswith(MEASURING_ROOMS)], ids=name)
def test_nothing_random_is_near_a_measurement(path: Path) -> None:
    assert "random" not in imports(path)


@pytest.mark.parametrize("path", CODE, ids=name)
def test_nothing_is_left_undone_or_swallowed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|NotImplementedError)\b", text)
    handlers = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler)]
    if name(path).startswith("core/"):
        assert not [
            h
            for h in handlers
            if h.type is None or (isinstance(h.type, ast.Name) and h.type.id in {"Exception", "BaseException"})
        ]


def test_tests_have_no_packages_and_no_mocks() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [name(path) for path in TESTS if "mock" in {part for node in imports(path) for part in node.split(".")}]


def test_test_names_are_sentences() -> None:
    short = [
        f"{name(path)}: {node.name}"
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and node.name.count("_") < 3
    ]
    assert not short


@pytest.mark.parametrize("path", sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("deployments/*.yaml")]), ids=name)
def test_every_yaml_file_loads(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_no_path_of_a_machine_is_in_the_repository() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\0"
    )
    pattern = re.compile(rb"/(?:root|work|home/[a-z]+)/[a-z.]")
    own = name(Path(__file__))
    assert not [
        file
        for file in files
        if file and file != own and (ROOT / file).is_file() and pattern.search((ROOT / file).read_bytes())
    ]


def test_every_package_is_installed() -> None:
    listed = set(
        re.findall(r'"((?:configs|core|flows|tasks)[a-z_.]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    )
    packages = {name(path.parent).replace("/", ".") for path in CODE if path.name == "__init__.py"}
    assert packages <= listed
