"""The rules of the house that no linter knows: sizes, names, who may import and call what."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

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


def offenders(paths: Iterable[Path], breaks: Callable[[Path], object]) -> dict[str, object]:
    """Return what breaks a rule, by file."""
    return {name(path): found for path in paths if (found := breaks(path))}


def test_a_module_keeps_its_size_and_says_what_is_in_it() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in CODE}
    assert not offenders(CODE, lambda path: lines[path] if lines[path] > line_limit(path) else 0)
    assert not offenders(CODE, lambda path: not ast.get_docstring(tree(path)))


def test_no_function_is_longer_than_50_lines() -> None:
    def long(path: Path) -> list[str]:
        nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        return [node.name for node in nodes if (node.end_lineno or 0) - node.lineno + 1 > 50]

    assert not offenders([*CODE, *TESTS], long)


def test_a_module_has_a_name_that_says_something() -> None:
    assert not offenders(
        CODE, lambda path: {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} & BANNED_NAMES
    )
    assert not offenders(CODE, lambda path: path.stem.endswith(BANNED_ENDINGS))


def test_only_workers_import_the_heavy_libraries() -> None:
    assert not offenders((path for path in CODE if path.name != "worker.py"), lambda path: imports(path) & HEAVY)


def test_prefect_stays_in_flows_and_tasks() -> None:
    assert not offenders(CODE, lambda path: name(path).startswith("core/") and imports(path) & {"prefect"})


def test_programs_are_started_in_one_place() -> None:
    others = [path for path in CODE if name(path) != "core/process.py"]
    assert not offenders(others, lambda path: imports(path) & {"subprocess", "multiprocessing", "pty"})


def test_environment_variables_are_read_in_one_place() -> None:
    def touched(path: Path) -> list[int]:
        nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
        return [node.lineno for node in nodes if node.attr in {"environ", "getenv"}]

    others = [path for path in CODE if name(path) not in ENVIRONMENT_READERS and not name(path).startswith("flows/cli/")]
    assert not offenders(others, touched)


def test_sql_stays_in_its_rooms() -> None:
    def written(path: Path) -> list[str]:
        nodes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Constant)]
        return [node.value for node in nodes if isinstance(node.value, str) and SQL.search(node.value)]

    assert not offenders((path for path in CODE if not name(path).startswith(SQL_ROOMS)), written)


def test_nothing_random_is_near_a_measurement() -> None:
    measuring = [path for path in CODE if name(path).startswith(MEASURING_ROOMS)]
    assert measuring
    assert not offenders(measuring, lambda path: imports(path) & {"random"})


def test_nothing_is_left_undone_or_swallowed() -> None:
    def swallowed(path: Path) -> list[int]:
        handlers = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler)]
        blind = {"Exception", "BaseException"}
        return [h.lineno for h in handlers if h.type is None or (isinstance(h.type, ast.Name) and h.type.id in blind)]

    undone = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert not offenders(CODE, lambda path: undone.search(path.read_text(encoding="utf-8")))
    assert not offenders((path for path in CODE if name(path).startswith("core/")), swallowed)


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


def test_every_yaml_file_loads() -> None:
    files = sorted([*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("deployments/*.yaml")])
    assert files
    assert not offenders(files, lambda path: not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict))


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
