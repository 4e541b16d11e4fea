"""The builtin source: questions about the standard library from the running interpreter."""

from __future__ import annotations

import inspect
import json
import pydoc
import sys

import pytest

from core.data import docs
from core.errors import NoRowsLeft
from core.process import capture


def records(rows: int) -> list[dict[str, str]]:
    return [json.loads(line) for line in docs.generate(rows).splitlines()]


def test_the_same_interpreter_gives_the_same_bytes() -> None:
    code = "import sys; from core.data import docs; sys.stdout.buffer.write(docs.generate(96))"

    printed = capture([sys.executable, "-c", code], timeout_s=60, env={"PYTHONHASHSEED": "7"})

    assert printed.encode() == docs.generate(96)


def test_fewer_rows_are_the_first_of_more() -> None:
    assert records(200)[:96] == records(96)


def test_every_question_is_another_and_brings_its_answer() -> None:
    found = records(500)

    assert len({record["user"] for record in found}) == 500
    assert len({record["context"] for record in found}) == 500
    assert all(40 <= len(record["context"]) <= 400 for record in found)
    assert all(record["context"][-1] in ".!?" and ">>>" not in record["context"] for record in found)


def test_the_answer_is_what_the_documentation_says() -> None:
    for record in records(200):
        name = record["user"].split("`")[1]
        documentation = inspect.getdoc(pydoc.locate(name)) or ""
        assert record["context"] in " ".join(documentation.split()), name


def test_more_rows_than_there_are_is_told() -> None:
    with pytest.raises(NoRowsLeft, match=r"< data\.builtin_rows 1000000"):
        docs.generate(1_000_000)
