"""Writes junit files into RESULTS.md, a section for each module of figures and one for all other tests.

Only the sections of what was run are written anew, so that one module's figures can be measured on their own; each says when,
on which commit and on which machine. Figures of cold_clone.py are taken from cold_clone.json beside the first junit file.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

HEAD = (
    "# Results\n\nEach figure has a variant that is broken on purpose and must miss it. `make test-full` measures all, "
    "`pytest tests/benchmarks/MODULE.py` one module.\n"
)
TESTS, COLD = "tests", "a fresh clone"
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
Case = ElementTree.Element


def counts(cases: list[Case]) -> str:
    """Say how many tests passed, failed and were skipped."""
    failed = sum(1 for case in cases if _failed(case))
    skipped = sum(1 for case in cases if case.find("skipped") is not None)
    return f"{len(cases) - failed - skipped} passed, {failed} failed, {skipped} skipped"


def _failed(case: Case) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def place(case: Case) -> str:
    """Return the section a test belongs to: its module among the figures, else that of all tests."""
    parts = case.get("classname", "").split(".")
    return parts[2] if parts[:2] == ["tests", "benchmarks"] and len(parts) > 2 else TESTS


def section(name: str, cases: list[Case], measured: str) -> str:
    """Return a section: what ran where, what failed, a row for each property a test recorded with `record_property`."""
    failed = [
        f"- failed: `{case.get('classname', '').replace('.', '/')}.py::{case.get('name', '')}`"
        for case in cases
        if _failed(case)
    ]
    lines = ["", f"{measured}: {counts(cases)}.", *(["", *failed] if failed else [])]
    rows = [
        f"| {case.get('name', '').removeprefix('test_').replace('_', ' ')} | {found.get('name')} | {found.get('value')} |"
        for case in cases
        for found in case.iter("property")
    ]
    return "\n".join([f"## {name}", *lines, *(["", "| Test | Figure | Value |", "|---|---|---|", *rows] if rows else [])])


def measured(suite: Case) -> str:
    """Say when, on which commit and where a junit file's tests ran."""
    when = (suite.get("timestamp") or "at an unknown time")[:16].replace("T", " ")
    told = {found.get("name"): found.get("value") for found in suite.findall("properties/property")}
    return f"{when}Z, commit {told.get('commit', 'unknown')}, {machine()}"


def machine() -> str:
    """Describe this machine."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{platform.system()} {platform.machine()}, {cpus} CPUs usable, Python {platform.python_version()}"


def cold_section(path: Path) -> dict[str, str]:
    """Return the section of the fresh clone, nothing when it was not measured."""
    if not path.exists():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    rows = [f"| {name} | {value} |" for name, value in found["figures"]]
    told = f"`python -m tests.benchmarks.cold_clone FOLDER`, {found['at']}:"
    return {COLD: "\n".join([f"## {COLD}", "", told, "", "| Figure | Value |", "|---|---|", *rows])}


def sections_in(text: str) -> dict[str, str]:
    """Return the sections of an earlier RESULTS.md."""
    starts = list(_SECTION.finditer(text))
    ends = [one.start() for one in starts[1:]] + [len(text)]
    return {one.group(1): text[one.start() : end].strip() for one, end in zip(starts, ends, strict=True)}


def sections_of(suites: Iterable[Case]) -> dict[str, str]:
    """Return what was run, by section."""
    made: dict[str, str] = {}
    for suite in suites:
        by_place: dict[str, list[Case]] = {}
        for case in suite.iter("testcase"):
            by_place.setdefault(place(case), []).append(case)
        made |= {name: section(name, cases, measured(suite)) for name, cases in by_place.items()}
    return made


def main(target: Path, junit: list[Path]) -> None:
    """Read the junit files and write their sections into `target`."""
    before = sections_in(target.read_text(encoding="utf-8")) if target.exists() else {}
    suites = [suite for path in junit for suite in ElementTree.parse(path).getroot().iter("testsuite")]
    told = before | sections_of(suites) | cold_section(junit[0].parent / "cold_clone.json")
    ordered = sorted(told, key=lambda name: (name != TESTS, name != COLD, name))
    target.write_text("\n\n".join([HEAD.strip(), *(told[name] for name in ordered)]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
