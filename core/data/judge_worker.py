"""A process that judges batches for crew.py until its pipe ends; it dies with its parent."""

from __future__ import annotations

import gc
import os
import sys
from importlib.abc import MetaPathFinder
from io import FileIO
from pathlib import Path

import pyarrow as pa

from core.data.crew import read_message, write_message
from core.data.judging import Judge
from core.data.token_rules import Student, TokenCounter
from core.start import forgo
from core.worker_process import die_with_parent


def main() -> None:
    """Judge what comes through the first pipe, answer through the second."""
    die_with_parent()
    _forgo_pandas()
    with os.fdopen(int(sys.argv[1]), "rb") as requests, FileIO(int(sys.argv[2]), "wb") as answers:
        (settings,) = read_message(requests)
        judge = Judge(settings, _counter(settings.student))
        gc.freeze()  # what is loaded now stays, so looking through it again and again is lost time
        gc.set_threshold(50_000)  # rows come and go without cycles
        while (message := read_message(requests)) is not None:
            match message:
                case "judge", number, lines:
                    write_message(answers, judge.judge(number, lines))
                case "settle", number, stayed:
                    judge.settle(number, stayed)
                case _:
                    write_message(answers, judge.totals())


class _NoPandas(MetaPathFinder):
    """Says that there is no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002  # the protocol's
        if name == "pandas":
            raise ModuleNotFoundError(name)


def _forgo_pandas() -> None:
    """Let pyarrow look for pandas now and find none: it looks once, and loading it takes a third of a second and 45 MB."""
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


def _counter(student: Student | None) -> TokenCounter | None:
    if student is None:
        return None
    forgo("torch")  # tokenising needs none, and it would take a second and 200 MB
    from core.data import worker

    return worker.TokenCounter(Path(student.folder))


if __name__ == "__main__":
    main()
