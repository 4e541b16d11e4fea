"""A corpus counted row by row: what a row adds, parts that add up, findings that come late, bounded memory."""

from __future__ import annotations

import pickle
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core.contract import Severity
from core.data.flaws import Flaw
from core.data.limits import CoverageLimits
from core.data.privacy import PrivacyReport
from core.data.record import Message, PromptRow
from core.data.statistics import Statistics

LIMITS = CoverageLimits()
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def row(**fields: Any) -> PromptRow:
    return PromptRow(**{"row_id": "1", "split": "train", "system": None, "context": None, "user": "Why?", **fields})


def warning(code: str) -> Flaw:
    return Flaw(code, "user", "x", "reason", Severity.WARNING)


Kept = tuple[PromptRow, tuple[Flaw, ...], int | None, str | None, float | None]


def counted(rows: list[Kept], rejects: list[str] | None = None) -> Statistics:
    statistics = Statistics(LIMITS)
    for one, flaws, tokens, language, quality in rows:
        statistics.add(one, split=one.split, flaws=flaws, tokens=tokens, language=language, quality=quality)
    for code in rejects or []:
        statistics.reject(code)
    return statistics


def test_lengths_are_those_of_the_question_of_all_that_is_shown_and_of_the_answer() -> None:
    turns = (Message(role="user", content="1234"), Message(role="assistant", content="56"))
    chat = row(user="Why?", system="sys", context="context", history=turns, completion="Because.")

    found = counted([(chat, (), 20, "en", 1.0)]).result()

    assert {part: lengths.p50 for part, lengths in found.characters.items()} == {"question": 4, "prompt": 20, "answer": 8}
    assert found.tokens is not None
    assert (found.tokens.total, found.answered) == (20, 1)
    assert found.turns is not None
    assert found.turns.maximum == 4


def test_an_answer_that_is_a_tool_call_alone_has_no_length() -> None:
    found = counted([(row(completion="", answer_tool_calls=(CALL,)), (), None, None, None)]).result()
    assert ("answer" in found.characters, found.answered) == (False, 1)


def test_what_is_not_known_is_counted_nowhere() -> None:
    found = counted([(row(), (), None, None, None)]).result()

    assert (found.tokens, found.quality, found.languages, found.answered, found.redactions) == (None, None, {}, 0, None)
    assert "answer" not in found.characters


def test_findings_are_counted_by_rule_errors_first_then_the_commonest() -> None:
    flaws = (warning("truncated"), warning("mojibake"))
    statistics = counted(
        [(row(), flaws, None, None, None), (row(), flaws[:1], None, None, None)], ["duplicate", "too-long"]
    )
    statistics.reject("too-long")
    statistics.found("near-duplicate", Severity.WARNING, 7)

    told = [(rule.code, rule.severity.value, rule.rows) for rule in statistics.result().findings]

    assert told[:2] == [("too-long", "error", 2), ("duplicate", "error", 1)]
    assert told[2:] == [("near-duplicate", "warning", 7), ("truncated", "warning", 2), ("mojibake", "warning", 1)]
    assert statistics.result().rejected == 3


def test_a_row_that_changes_sides_later_is_counted_on_its_last_side() -> None:
    rows: list[Kept] = [(row(), (), None, None, None)] * 3
    late = Statistics(LIMITS)
    late.moved("train", "held_out", 2)

    assert (counted(rows) + late).result().splits == {"train": 1, "held_out": 2}


def test_tools_are_counted_by_name_and_calls_wherever_they_stand() -> None:
    steps = (Message(role="assistant", content="", tool_calls=(CALL,)), Message(role="tool", content="{}"))
    rows = [row(tools=(TOOL,)), row(steps=steps, tools=(TOOL,)), row(answer_tool_calls=(CALL,)), row(tool_name="mail")]

    tools = counted([(one, (), None, None, None) for one in [*rows, row(requires_json=True)]]).result().tools

    assert (tools.rows_offering, tools.rows_calling, tools.rows_requiring_json) == (3, 2, 1)
    assert tools.names == {"look": 2, "mail": 1}


def test_names_of_tools_without_end_are_counted_but_not_kept() -> None:
    rows: list[Kept] = [(row(tool_name=f"tool {number}"), (), None, None, None) for number in range(1001)]

    assert counted(rows).result().tools.distinct is None
    assert (counted(rows[:600]) + counted(rows[600:])).result().tools.distinct is None
    known = counted(rows[:1000]).result().tools
    assert (known.distinct, len(known.names)) == (1000, 100)


def test_a_perfect_score_is_in_the_last_bin() -> None:
    quality = counted([(row(), (), None, None, score) for score in (0.0, 0.049, 0.5, 0.99, 1.0)]).result().quality

    assert quality is not None
    assert (quality.bins[0], quality.bins[10], quality.bins[19]) == (2, 1, 2)
    assert abs(quality.mean - 0.5078) < 1e-9


def test_redactions_are_those_the_privacy_pass_counted() -> None:
    report = PrivacyReport(
        rows=2, rows_redacted=1, rows_set_aside=0, counts={"email": 3}, checked=("email",), not_checked=()
    )

    assert counted([]).result(report).redactions == report


ROWS = st.tuples(
    st.builds(
        row,
        user=st.text(min_size=1, max_size=30),
        completion=st.none() | st.text(max_size=30),
        split=st.sampled_from(["train", "held_out"]),
        extra=st.dictionaries(
            st.sampled_from(LIMITS.fields), st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=3)
        ),
        tool_name=st.none() | st.text(min_size=1, max_size=3),
    ),
    st.lists(st.sampled_from([warning("truncated"), warning("mojibake")]), max_size=2, unique=True).map(tuple),
    st.none() | st.integers(0, 5000),
    st.none() | st.sampled_from(["fr", "en"]),
    st.none() | st.floats(0, 1),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=8), st.lists(ROWS, max_size=8), st.lists(st.sampled_from(["duplicate", "too-long"])))
def test_parts_add_up_to_the_whole_also_after_a_journey(left: list[Kept], right: list[Kept], codes: list[str]) -> None:
    whole = counted([*left, *right], codes).result()
    a, b = counted(left, codes), pickle.loads(pickle.dumps(counted(right)))

    assert (a + b).result() == whole
    assert (b + a).result() == whole
    assert (a + b).coverage.findings() == counted([*left, *right]).coverage.findings()


def test_labels_of_parts_are_free_text_when_they_are_so_together() -> None:
    limits = CoverageLimits(max_values=3)
    parts = [Statistics(limits), Statistics(limits)]
    for number in range(4):
        one = row(extra={"tags": [f"tag {number}"]})
        parts[number % 2].add(one, split=one.split, flaws=(), tokens=None, language=None, quality=None)

    (field,) = (parts[0] + parts[1]).result().labels

    assert (field.rows, field.distinct, field.commonest) == (4, None, {})
