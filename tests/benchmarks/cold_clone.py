"""Times `make demo` and `make test` in a fresh clone with empty caches, and once without a compiler: `cold_clone.py FOLDER`.

The figures go to build/cold_clone.json, from where write_results.py takes them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks.meter import ROOT, Measured, measure, reached

COLD_DEMO_S = 25 * 60.0
WARM_TEST_S = 12 * 60.0
RESULT = ROOT / "build" / "cold_clone.json"


def clone(folder: Path) -> dict[str, str]:
    """Clone the last commit and return an environment whose caches are empty."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder / "clone")], check=True)
    home = folder / "home"
    home.mkdir()
    caches = {
        name: str(home / name.lower()) for name in ("XDG_CACHE_HOME", "EDGEKILN_CACHE", "PIP_CACHE_DIR", "PREFECT_HOME")
    }
    return {"HOME": str(home), **caches}


def make(target: str, folder: Path, environment: dict[str, str]) -> Measured:
    """Run a make target in the clone."""
    return measure(["make", "-C", str(folder / "clone"), target], folder / target, environment)


def without_compiler(folder: Path) -> str:
    """Return a PATH on which everything is but a C++ compiler and CMake."""
    programs = folder / "programs"
    programs.mkdir()
    hidden = {"g++", "c++", "clang++", "cmake"}
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            link = programs / program.name
            if program.name not in hidden and not link.exists():
                link.symlink_to(program)
    return str(programs)


def figures(folder: Path) -> list[tuple[str, str]]:
    """Measure, and return each figure's name and value; a missed limit says so."""
    environment = clone(folder)
    demo = make("demo", folder, environment)
    test = make("test", folder, environment)
    shutil.rmtree(folder / "home" / "edgekiln_cache")
    (folder / "clone" / ".venv" / ".edgekiln-setup").unlink()
    broken = make("setup", folder, {**environment, "PATH": without_compiler(folder)})
    return [
        (f"make demo, fresh clone, empty caches [s], limit {COLD_DEMO_S:g}", _told(demo, COLD_DEMO_S)),
        (f"make test after it [s], limit {WARM_TEST_S:g}", _told(test, WARM_TEST_S)),
        (
            "broken on purpose: no g++ and no cmake",
            f"status {broken.status} after {broken.seconds:.0f} s: {_first_error(broken)}",
        ),
    ]


def _told(measured: Measured, limit_s: float) -> str:
    how = "ok" if measured.status == 0 else f"status {measured.status}"
    return f"{measured.seconds:.0f}, {how}, {'within' if reached('s', measured.seconds, limit_s) else 'OVER'} the limit"


def _first_error(measured: Measured) -> str:
    lines = [line for line in measured.stderr.splitlines() if line.startswith("[env-")]
    return lines[0] if lines else "no error was told"


def main(folder: Path) -> None:
    """Measure in an empty folder and write the result."""
    folder.mkdir(parents=True)
    measured = figures(folder)
    RESULT.parent.mkdir(exist_ok=True)
    document = {"at": f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z", "figures": measured}
    RESULT.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
