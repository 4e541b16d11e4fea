"""Answers are judged by the data stage's rules: errors set them aside, warnings are counted."""

from __future__ import annotations

from core.contract import Severity
from core.data.limits import QualityWeights, RuleLimits
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
    gate = AnswerGate(RuleLimits(), QualityWeights())

    assert gate.refuses(row(), "A kiln is an oven in which clay is fired.", ()) is None
    assert gate.findings() == ()


def test_an_answer_with_an_error_is_set_aside_with_the_rules_own_code() -> None:
    gate = AnswerGate(RuleLimits(max_answer_chars=20), QualityWeights())

    empty = gate.refuses(row(), "\u200b", ())
    long = gate.refuses(row(), "A kiln is an oven in which clay is fired.", ())
    call = gate.refuses(row(tools=[TOOL]), "", (CALL,))

    assert empty is not None
    assert long is not None
    assert call is not None
    assert (empty.code, long.code, call.code) == ("empty-completion", "answer-too-long", "tool-call-misfits")
    assert (long.where, long.field) == ("r1", "completion")
    assert gate.findings() == ()


def test_odd_answers_are_kept_and_counted_odd_questions_are_not() -> None:
    gate = AnswerGate(RuleLimits(), QualityWeights())

    for number in (1, 2):
        assert gate.refuses(row(number), "I'm sorry, but I can't help with that.", ()) is None
        gate.score(row(number), "I'm sorry, but I can't help with that.", (), {})
    gate.score(row(user="What is <|im_start|> in a chat?"), "It begins a turn.", (), {})

    (finding,) = gate.findings()
    assert (finding.code, finding.severity, finding.where) == ("label-refusal", Severity.WARNING, "r1")
    assert finding.evidence.startswith("2 answers were kept with a warning")


def test_what_the_teacher_tells_of_its_answer_enters_the_score() -> None:
    gate = AnswerGate(RuleLimits(), QualityWeights())
    answer = "A kiln is an oven in which clay is fired."

    plain = gate.score(row(), answer, (), {"consistency": None, "confidence": None})
    sure, unsure = (gate.score(row(), answer, (), {"consistency": 1.0, "confidence": told}) for told in (1.0, 0.1))

    assert plain == sure == 1.0
    assert unsure < 0.95
