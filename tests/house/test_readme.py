"""The README is true: its commands exist and run, its error table is the tree, its room table has every room."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import every_error

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"^ {4}(edgekiln [^\n`#|]+)", README, re.M)))


def is_option(word: str) -> bool:
    return word.startswith("-")


def command_path(command: str) -> list[str]:
    """Return the leading words of a command that are not its arguments."""
    words = shlex.split(command)[1:]
    return [word for word in words if not is_option(word) and re.fullmatch(r"[a-z][a-z-]*", word)][:2]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_readme_exists(command: str) -> None:
    path = command_path(command)
    for length in range(len(path), 0, -1):
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli.main", *path[:length], "--help"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and "Usage" in done.stdout:
            break
    else:
        pytest.fail(f"{command}: {done.stderr}")
    options = [word.split("=")[0] for word in shlex.split(command) if word.startswith("--")]
    assert not [option for option in options if option not in done.stdout and option != "--help"]


def test_the_readme_shows_commands_at_all() -> None:
    assert len(COMMANDS) >= 8


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^\s*make ([a-z-]+)", README, re.M))
    assert {"demo", "test"} <= targets
    assert not [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)]


def test_the_error_table_is_the_tree() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \|", README, re.M))
    assert rows == {kind.code: str(kind.exit_status) for kind in every_error()}


def test_the_room_table_has_every_room() -> None:
    rooms = {f"core/{path.name}/" for path in (ROOT / "core").iterdir() if path.is_dir() and path.name != "__pycache__"}
    rooms |= {f"core/{path.name}" for path in (ROOT / "core").glob("*.py") if path.name != "__init__.py"}
    rooms |= {"tasks/", "flows/", "flows/cli/", "configs/", "deployments/", "tests/"}
    assert not [room for room in sorted(rooms) if f"`{room}`" not in README]
