"""Figures say on which commit they were measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.benchmarks.meter import ROOT


@pytest.fixture(scope="session", autouse=True)
def commit(record_testsuite_property: Callable[[str, object], None]) -> None:
    argv = ["git", "describe", "--always", "--dirty", "--abbrev=7"]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    record_testsuite_property("commit", found.stdout.strip() or "unknown")
