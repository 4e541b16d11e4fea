"""The log of decisions and where a training stands by it, over all the processes that worked on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ManifestBroken
from core.events import Event, ignore
from core.train.alarm import Alarm
from core.train.course import Course
from core.train.decision import Decision, Decisions, Standing, read_decisions, standing_of

SPIKE = Alarm(kind="spike", metric="loss", step=21, figure=9.0, limit=5.0, baseline=3.0)


def log(path: Path, heard: list[Event] | None = None) -> Decisions:
    return Decisions(path / "decisions.jsonl", ignore if heard is None else heard.append, path / "quarantine")


def test_another_process_reads_what_was_decided_and_stands_where_the_first_stood(tmp_path):
    first = log(tmp_path)
    first.add("halted", 21, to_step=16, alarm=SPIKE, reason=SPIKE.text)
    assert log(tmp_path).standing == first.standing == Standing(suspect=SPIKE)
    first.add("skipped", 21, to_step=20, left_out=("row-3", "row-9"))
    first.add("rolled-back", 30, to_step=24, learning_rate_factor=0.5, left_out=("row-9", "row-4"))
    first.add("shrunk", 31, to_step=24, micro_batch=2)
    second = log(tmp_path)
    assert second.records == first.records
    assert second.standing == Standing(
        course=Course(left_out=("row-3", "row-9", "row-4"), learning_rate_factor=0.5, micro_batch=2), skips=1, rollbacks=1
    )


def test_what_has_no_event_of_its_own_is_told_and_going_back_is_told_as_a_warning(tmp_path):
    heard: list[Event] = []
    decisions = log(tmp_path, heard)
    decisions.add("resumed", 8)
    decisions.add("halted", 21, to_step=16, alarm=SPIKE, reason=SPIKE.text)
    decisions.add("rolled-back", 21, to_step=16, learning_rate_factor=0.5, reason=SPIKE.text)
    decisions.add("finished", 60, adapter_step=60, device="cpu")
    told = [(event.decision, event.level, event.to_step) for event in heard]
    assert told == [("halted", "info", 16), ("rolled-back", "warning", 16)]
    assert heard[1].text == f"{SPIKE.text}; back to step 16; learning rate x 0.5"


@pytest.mark.parametrize(
    "damage", [b"\x00" * 60 + b"\n", b'{"decision": "rolled\n', b'{"decision": "news", "step": 3}\n', b"\xff\n", b"7\n"]
)
def test_a_damaged_log_goes_on_with_the_lines_that_are_whole_and_is_kept_aside(tmp_path, damage):
    first = log(tmp_path)
    first.add("rolled-back", 30, to_step=24, learning_rate_factor=0.5)
    first.add("shrunk", 31, to_step=24, micro_batch=2)
    path = tmp_path / "decisions.jsonl"
    one, other = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(one + damage + other)
    with pytest.raises(ManifestBroken, match=r"decisions\.jsonl:2 holds no decision"):
        read_decisions(path)
    heard: list[Event] = []
    assert log(tmp_path, heard).records == first.records
    assert path.read_bytes() == one + other
    (aside,) = (tmp_path / "quarantine").iterdir()
    assert aside.read_bytes() == one + damage + other
    (note,) = heard
    assert f"{path}: no decision in line 2; the other 2 count, the file is now {aside}" == note.text
    assert log(tmp_path, heard).records == first.records
    assert len(heard) == 1


def restarted(step: int) -> Decision:
    return Decision(decision="restarted", at="2026-01-01T00:00:00Z", step=step + 3, to_step=step)


@given(st.lists(st.integers(0, 3)), st.integers(0, 3), st.integers(0, 5))
def test_restarts_from_one_step_are_counted_until_another_step_was_reached(before, step, times):
    standing = standing_of([restarted(one) for one in [*before, step + 10, *[step] * times]])
    assert standing.restarts_in_a_row(step) == times
    assert standing.restarts_in_a_row(99) == 0
