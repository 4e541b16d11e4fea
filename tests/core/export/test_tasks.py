"""The share of right answers: of a real file, of a student's base, of its teacher, and the limit a profile sets on it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.compare.questions import Question, of_rows, sampled
from core.config import ExportConfig
from core.data.record import LabeledRow, Message, TokenisedRow
from core.events import ignore
from core.export.gate import Gate
from core.export.merge import MergeResult
from core.export.section import TaskLimits
from core.export.tasks import Tasks, chosen

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
pytestmark = pytest.mark.model


def row(number: int, question: str, answer: str, **more: Any) -> LabeledRow:
    turns = (Message(role="user", content=question), Message(role="assistant", content=answer))
    return LabeledRow(row_id=str(number), split="held_out", messages=turns, **more)


ROWS = (
    row(1, "What is the capital of France? Answer in one word.", "Paris"),
    row(2, "Tell me about Rome.", "Rome is the capital of Italy, and it was that of an empire for a long time."),
    row(3, "The capital of Italy as JSON.", json.dumps({"city": "Rome"}), requires_json=True, tool_schema=SCHEMA),
    row(4, "Any JSON.", "[1, 2]", requires_json=True),
)


def tasks(toolchain: Any, most: int = 9) -> Tasks:
    return Tasks(chosen(ROWS, most), ExportConfig(task_tokens=8), toolchain, ignore)


def test_only_prompts_with_a_right_answer_are_asked(toolchain, tmp_path: Path) -> None:
    assert [question.row_id for question in tasks(toolchain).questions] == ["1", "3", "4"]
    assert len(tasks(toolchain, 2).questions) == 2
    nothing = tasks(toolchain, 0)
    assert nothing.shares_of(tmp_path / "never-read.gguf", tmp_path) == {}
    assert nothing.around(tmp_path / "never-read", "x", tmp_path / "y") == {}


NUMBERS = st.lists(st.integers(0, 999), unique=True, max_size=40)


@given(NUMBERS, st.integers(0, 12), st.randoms(use_true_random=False))
def test_a_sample_does_not_depend_on_where_its_rows_stand_nor_on_their_ids(
    numbers: list[int], most: int, chance: random.Random
) -> None:
    """A file whose first rows are of one kind gave the first kind only."""
    rows = [row(number, f"What is {number} + 1?", str(number + 1)) for number in numbers]
    found = chosen(rows, most)
    assert len(found) == min(most, len(rows))
    assert [question.row_id for question in found] == [one.row_id for one in rows if one.row_id in ids(found)]
    renamed = [one.model_copy(update={"row_id": f"line {n}"}) for n, one in enumerate(chance.sample(rows, len(rows)))]
    assert asked(chosen(renamed, most)) == asked(found)
    grown = chosen([*rows, row(1000, "What is 1000 + 1?", "1001")], most)
    assert len(asked(found) - asked(grown)) <= 1


def test_the_sample_is_the_one_a_comparison_takes() -> None:
    rows = [row(number, f"What is {number} + 1?", str(number + 1)) for number in range(40)]
    assert chosen(rows, 8) == sampled(of_rows(rows), 8)
    assert [question.row_id for question in chosen(rows, 8)] != [str(number) for number in range(8)]


def ids(found: Iterable[Question]) -> set[str]:
    return {question.row_id for question in found}


def asked(found: Iterable[Question]) -> set[str]:
    return {question.messages[-1].content for question in found}


def test_a_file_is_worth_what_its_answers_are(toolchain, default_gguf: Path, tmp_path: Path) -> None:
    found = tasks(toolchain).shares_of(default_gguf, tmp_path)
    assert set(found) == {"exact_match", "json_valid", "schema_valid"}
    assert all(0 <= share <= 1 for share in found.values())
    assert found["json_valid"] == 0  # 8 tokens of chat are no JSON


def test_a_base_that_has_learned_nothing_stands_beside_its_teacher(toolchain, tiny_smollm_student: Path, tmp_path) -> None:
    found = tasks(toolchain).around(tiny_smollm_student, "pupil", tmp_path / "base")
    assert found == {
        "exact_match.base": 0.0,
        "json_valid.base": 0.0,
        "schema_valid.base": 0.0,
        "exact_match.teacher": 1.0,
        "json_valid.teacher": 1.0,
        "schema_valid.teacher": 1.0,
    }
    assert not (tmp_path / "base").exists()


def test_a_file_below_a_limit_that_is_set_is_rejected_for_it(toolchain, default_gguf: Path, tmp_path: Path) -> None:
    asked = TokenisedRow(row_id="a", input_ids=(1, 4093, 198, 2, 198), completion_mask=(0, 0, 0, 1, 1))
    reference = MergeResult(held_out_loss=9.0, dtype="bfloat16", parameters=1, has_chat_template=True, texts=())
    config = ExportConfig(max_loss_increase=50.0, min_task=TaskLimits(json_valid=0.9, exact_match=0.0))
    judged = Gate(reference, (asked,), config, toolchain, ignore, tasks=tasks(toolchain)).examine(
        default_gguf, "Q4_0", tmp_path
    )
    assert set(judged.tasks) == {"exact_match", "json_valid", "schema_valid"}
    assert "json_valid.Q4_0 0.0000, limit >= 0.9" in judged.reasons
    assert not [reason for reason in judged.reasons if reason.startswith(("exact_match", "schema_valid"))]
