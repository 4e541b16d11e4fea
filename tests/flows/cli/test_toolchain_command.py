"""`edgekiln toolchain`: what was built, and what to do when nothing is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.config import cache_folder
from core.toolchain import Toolchain

ROOT = Path(__file__).parents[3]


def edgekiln(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "flows.cli.main", "toolchain", *words]
    return subprocess.run(argv, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


@pytest.mark.model
def test_build_and_show_name_the_same_toolchain(toolchain: Toolchain) -> None:
    built, shown = edgekiln("build", "--json"), edgekiln("show", "--json")
    assert json.loads(built.stdout) == json.loads(shown.stdout) == toolchain.model_dump(mode="json")
    assert toolchain.commit in edgekiln("show").stdout


@pytest.mark.model
@pytest.mark.usefixtures("toolchain")
def test_the_archives_path_is_whole_so_that_a_makefile_can_use_it() -> None:
    home = cache_folder().parent
    done = edgekiln("archive", HOME=str(home), EDGEKILN_CACHE=str(cache_folder()))
    assert Path(done.stdout.strip()).is_file(), done.stderr


def test_nothing_built_is_an_environment_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = edgekiln("show", EDGEKILN_CACHE=str(tmp_path))
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == "Fix: Run `edgekiln toolchain build`."
