"""Writes RESULTS.md from junit files: the tests' counts and every figure a test recorded, with date and machine.

Figures of cold_clone.py are added where cold_clone.json lies beside the first of them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree


def counts(cases: list[ElementTree.Element]) -> str:
    """Say how many tests passed, failed and were skipped."""
    failed = sum(1 for case in cases if case.find("failure") is not None or case.find("error") is not None)
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return f"{len(cases) - failed - skipped} passed, {failed} failed, {skipped} skipped"


def failures(cases: list[ElementTree.Element]) -> list[str]:
    """Return a line for each test that failed."""
    return [
        f"- failed: `{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}`"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]


def rooms(cases: list[ElementTree.Element]) -> str:
    """Say which rooms the tests are of; `make test-full` runs all."""
    return ", ".join(sorted({"/".join(case.get("classname", "").split(".")[:2]) for case in cases}))


def figures(cases: list[ElementTree.Element]) -> list[str]:
    """Return one table row for each property a test recorded with `record_property`."""
    return [
        f"| {case.get('name', '').removeprefix('test_').replace('_', ' ')} | {found.get('name')} | {found.get('value')} |"
        for case in cases
        for found in case.iter("property")
    ]


def cold_figures(path: Path) -> list[str]:
    """Return the table of the fresh clone, nothing when it was not measured."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [f"| {name} | {value} |" for name, value in found["figures"]]
    head = f"`python -m tests.benchmarks.cold_clone FOLDER`, {found['at']}:"
    return ["", "## A fresh clone", "", head, "", "| Figure | Value |", "|---|---|", *rows]


def machine() -> str:
    """Describe the machine the figures come from."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cpus} CPUs usable, Python {platform.python_version()}"


def main(target: Path, junit: list[Path]) -> None:
    """Read the junit files, write `target`."""
    cases = [case for path in junit for case in ElementTree.parse(path).getroot().iter("testcase")]
    lines = [
        "# Results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M}Z on {machine()}: {counts(cases)}, of {rooms(cases)}.",
        *(["", *failed] if (failed := failures(cases)) else []),
        "",
        "Each figure has a variant that is broken on purpose and must miss it; `pytest -m full tests/benchmarks` alone measures them.",
        "",
        "| Test | Figure | Value |",
        "|---|---|---|",
        *figures(cases),
        *cold_figures(junit[0].parent / "cold_clone.json"),
    ]
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
