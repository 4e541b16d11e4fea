"""Becomes another program that dies with its parent: `python -m core.bench.guard PROGRAM ARGUMENTS`.

A llama-bench that outlives a killed run would slow down the measurement that goes on after it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from core.process import python_module
from core.worker_process import die_with_parent


def guarded(argv: Sequence[str]) -> list[str]:
    """Return the argument list that runs a program under this guard."""
    return python_module("core.bench.guard", *argv)


def main() -> None:
    """Take the place of the program that the arguments name."""
    die_with_parent()
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 - the same process goes on, started by core/process.py
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
