"""Answers are judged by the data stage's rules: errors set them aside, warnings are counted."""

from __future__ import annotations

from core.contract import Severity
from core.data.limits import RuleLimits
from core.data.record import PromptRow
from core.label.answer_gate import AnswerGate

CALL = {"type": "function", "function": {"name": "weather", "arguments": '{"city": 4}'}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def row(number: int = 1, **more: object) -> PromptRow:
    fields = {"row_id": f"r{number}", "split": "train", "system": None, "context": None, "user": "What is a kiln?", **more}
    return PromptRow.model_validate(fields)


def test_a_good_answer_passes_without_a_word() -> None:
    gate = AnswerGate(RuleLimits())

    assert gate.judge(row(), "A kiln is an oven in which clay is fired.", ()) is None
    assert gate.findings() == ()


def test_an_answer_with_an_error_is_set_aside_with_the_rules_own_code() -> None:
    gate = AnswerGate(RuleLimits(max_answer_chars=20))

    empty = gate.judge(row(), "\u200b", ())
    long = gate.judge(row(), "A kiln is an oven in which clay is fired.", ())
    call = gate.judge(row(tools=[TOOL]), "", (CALL,))

    assert empty is not None
    assert long is not None
    assert call is not None
    assert (empty.code, long.code, call.code) == ("empty-completion", "answer-too-long", "tool-call-misfits")
    assert (long.where, long.field) == ("r1", "completion")
    assert gate.findings() == ()


def test_odd_answers_are_kept_and_counted_odd_questions_are_not() -> None:
    gate = AnswerGate(RuleLimits())

    for number in (1, 2):
        assert gate.judge(row(number), "I'm sorry, but I can't help with that.", ()) is None
    assert gate.judge(row(user="What is <|im_start|> in a chat?"), "It begins a turn.", ()) is None

    (finding,) = gate.findings()
    assert (finding.code, finding.severity, finding.where) == ("label-refusal", Severity.WARNING, "r1")
    assert finding.evidence.startswith("2 answers were kept with a warning")
