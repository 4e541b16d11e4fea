"""Starts a worker module as `python -m` does, the garbage collector held back while it imports: `python -m core.start MODULE ...`.

Python's own threshold of 700 new objects lets it run hundreds of times while torch makes classes that stay: a third of the time.
"""

from __future__ import annotations

import gc
import runpy
import sys
from typing import cast

_WHILE_IMPORTING = (50_000, 50, 100)
_USUAL = (700, 10, 10)


def imported() -> None:
    """Take what is loaded now for what stays, and let the collector run as usual from here on."""
    gc.freeze()
    gc.set_threshold(*_USUAL)


def forgo(module: str) -> None:
    """Let every import of a module fail as if it were not installed."""
    cast(dict[str, object], sys.modules)[module] = None


def main() -> None:
    """Run the module that the first argument names, with the arguments after it."""
    gc.set_threshold(*_WHILE_IMPORTING)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
