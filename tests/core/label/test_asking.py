"""How an endpoint is asked: who gets a place when, against a real HTTP server."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta, tzinfo
from email.utils import format_datetime
from itertools import islice

import pytest

from core.config import LabelConfig
from core.contract import Stage
from core.errors import BudgetReached, DataError, TeacherFailed
from core.label import asking, pace
from core.label.account import Account
from core.label.ask import first_request
from core.label.asking import Asker
from core.label.entries import Spent
from core.label.label import label
from core.label.ledger import open_ledger
from core.label.outcome import follow
from core.label.request import Reply
from core.label.session import Session
from core.label.teachers import Trouble


def test_questions_get_their_places_in_order_though_many_wait(
    workspace, server, step, make_dataset, make_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_WORTH", 1e9)  # a step up never pays, so that most have to wait
    server.otherwise = step(wait_s=0.01)
    config = LabelConfig(teacher="qwen3-8b", backend="openai", base_url=server.base_url, concurrency=64)
    label(make_dataset(workspace, make_rows(200)), config, workspace)
    came = [int(sent.last.split()[1].rstrip("?")) for sent in server.sent]
    # some that have places side by side overtake each other on their way; without an order some come 170 places late
    assert max(abs(number - place) for place, number in enumerate(came)) <= 50


@pytest.fixture
def config(server) -> LabelConfig:
    return LabelConfig(teacher="qwen3-8b", backend="openai", base_url=server.base_url, attempts=2, concurrency=4)


@pytest.mark.parametrize("concurrency", [4, 64])
def test_no_more_is_asked_once_too_many_rows_stay_without_an_answer(
    workspace, events, server, step, config, make_dataset, make_rows, concurrency: int
) -> None:
    server.otherwise = step(status=400)
    dataset = make_dataset(workspace, make_rows(100))
    config = config.model_copy(update={"concurrency": concurrency})
    with pytest.raises(TeacherFailed, match=r"of 100 rows got no answer: more than 20%.* others were not asked any more"):
        label(dataset, config, workspace, events.append)
    asked = len(server.sent)
    assert 21 <= asked <= 21 + 2 * pace.START  # who waits for a place does not get one any more
    told = [event.text for event in events if event.kind == "note" and "others were not asked" in event.text]
    assert len(told) == 1
    assert f"{100 - asked} others" in told[0]
    with open_ledger(workspace.ledger("label")) as ledger:
        assert ledger.sessions()[0].done == asked
    server.otherwise = step()
    assert label(dataset, config, workspace).unanswered == 0


def test_a_labelling_that_was_given_up_is_not_taken_for_whole_when_more_may_fail(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {f"Question {number:03}?": [step(status=400)] * 2 for number in range(10)}
    dataset = make_dataset(workspace, make_rows(40))
    with pytest.raises(TeacherFailed, match="not asked any more"):
        label(dataset, config, workspace)
    lenient = config.model_copy(update={"max_failed_share": 0.9})
    artifact = label(dataset, lenient, workspace)
    assert artifact.unanswered == 10
    assert label(dataset, lenient, workspace).created_at == artifact.created_at


def test_answers_that_are_none_are_paid_for_up_to_the_limit_and_not_again(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.otherwise = step(text=" ")
    dataset = make_dataset(workspace, make_rows(100))
    for _ in range(2):
        with pytest.raises(TeacherFailed, match="mostly teacher-empty"):
            label(dataset, config, workspace)
        assert len(server.sent) <= 21 + config.concurrency


def test_nothing_is_asked_where_too_many_rows_cannot_be(workspace, server, config, make_dataset, make_rows) -> None:
    rows = [*make_rows(40), *make_rows(20, requires_json=True, tool_schema={"type": 7})]
    named = [row.model_copy(update={"row_id": f"n{number}"}) for number, row in enumerate(rows)]
    with pytest.raises(DataError, match="20 of 60 rows"):
        label(make_dataset(workspace, named), config, workspace)
    assert server.sent == []


class _Refusing:
    """A teacher that takes requests ahead and refuses each; no real model can be asked to."""

    concurrency, batches = 1, True

    def __init__(self) -> None:
        self.asked = 0

    def answer(self, requests):
        for request in requests:
            self.asked += 1
            yield request, Trouble(reason="no", retryable=False, code="teacher-refused")

    def close(self) -> None:
        """Hold nothing."""


def test_a_teacher_on_this_machine_is_given_up_too(workspace, config, make_rows) -> None:
    firsts = [first_request(row, "t", config) for row in make_rows(100)]
    teacher, done = _Refusing(), []
    with open_ledger(workspace.ledger("label")) as ledger:
        asker = Asker(teacher, ledger, config, Account(config.budget, None, Spent()), lambda _: None)
        asker.ask_all(firsts, done.append, may_fail=7)
    assert (teacher.asked, len(done), asker.gave_up) == (8, 8, True)


def test_an_endpoint_that_asks_for_more_time_than_there_is_patience_ends_the_labelling_at_once(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.otherwise = step(status=429, headers={"Retry-After": "86400"})
    with pytest.raises(TeacherFailed, match=r"86400 s > 3600, label\.patience_s"):
        label(make_dataset(workspace, make_rows(40)), config, workspace)
    assert len(server.sent) <= config.concurrency
    assert not (workspace.root / "artifacts" / Stage.LABEL).exists()


class Jumping:
    """A wall clock that jumps at every look: six hours on, six hours back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        true, clock = time.time, self

        class Date(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.fromtimestamp(true() + clock.error_s(), tz)

        def wall() -> float:  # the endpoint, in threads of its own, has a clock that is right
            is_server = "process_request_thread" in threading.current_thread().name
            return true() + (0 if is_server else clock.error_s())

        monkeypatch.setattr(time, "time", wall)
        for module in ("endpoint", "ledger"):
            monkeypatch.setattr(f"core.label.{module}.datetime", Date)

    def error_s(self) -> float:
        self.looks += 1
        return 21_600.0 * (-1) ** self.looks


def test_a_clock_that_jumps_by_hours_neither_stalls_nor_hurries_nor_ends_a_labelling(
    workspace, server, step, config, make_dataset, make_rows, monkeypatch
) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=2))
    away = {f"Question {number:03}?": [step(status=500)] for number in (3, 7)}
    server.script = {"Question 000?": [step(status=429, headers={"Retry-After": soon})], **away}
    dataset, budget = make_dataset(workspace, make_rows(24)), config.budget.model_copy(update={"max_s": 600.0})
    clock = Jumping(monkeypatch)
    began = time.perf_counter()
    artifact = label(dataset, config.model_copy(update={"budget": budget}), workspace)
    taken_s = time.perf_counter() - began
    assert clock.looks > 24
    assert (artifact.unanswered, artifact.asked, len(server.sent)) == (0, 24 + 3, 24 + 3)
    assert 0.5 < taken_s < 30


def test_an_endpoint_that_only_says_it_has_too_much_loses_no_row(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {f"Question {number:03}?": [step(status=429)] * 3 for number in (2, 9)}
    artifact = label(make_dataset(workspace, make_rows(12)), config, workspace)
    assert (artifact.unanswered, artifact.asked) == (0, 12 + 6)


def test_a_question_whose_turn_comes_after_the_stop_is_not_counted_as_done(
    workspace, server, config, make_dataset, make_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*given: object) -> object:
        found = follow(*given)
        time.sleep(0.1)  # so that some are about to send when the budget is reached
        return found

    monkeypatch.setattr(asking, "follow", slowly)
    poor = LabelConfig.model_validate(config.model_dump() | {"budget": {"max_requests": 10}})
    with pytest.raises(BudgetReached):
        label(make_dataset(workspace, make_rows(40)), poor, workspace)
    with open_ledger(workspace.ledger("label")) as ledger:
        assert ledger.sessions()[0].done == ledger.counts()["answered"] == len(server.sent) == 10


def test_a_row_that_looked_before_another_s_answer_came_does_not_pay_for_it_again(
    workspace, server, config, make_dataset, make_rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []

    def slowly(*given: object) -> object:
        found = follow(*given)
        looks.append("")
        if len(looks) == 2:  # the second row's, which sees no answer yet and is late
            time.sleep(1.0)
        return found

    rows = [row.model_copy(update={"user": "The same?"}) for row in make_rows(2)]
    dataset = make_dataset(workspace, [*rows[:1], rows[1].model_copy(update={"split": "held_out"})])
    monkeypatch.setattr(asking, "follow", slowly)
    assert label(dataset, config, workspace).asked == len(server.sent) == 1


def test_rows_that_fail_while_others_are_refused_count_for_the_limit(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {f"Question {number:03}?": [step(status=400)] for number in range(0, 100, 2)}
    server.otherwise = step(status=500)
    once = config.model_copy(update={"attempts": 1, "concurrency": 1})
    with pytest.raises(TeacherFailed, match="more than 20%"):
        label(make_dataset(workspace, make_rows(100)), once, workspace)
    assert len(server.sent) <= 21 + 2


def test_who_waits_for_no_endpoint_still_tries_as_often_as_it_may(
    workspace, server, step, config, make_dataset, make_rows
) -> None:
    server.script = {"Question 000?": [step(status=500)]}
    hurried = config.model_copy(update={"patience_s": 0.0})
    assert label(make_dataset(workspace, make_rows(4)), hurried, workspace).unanswered == 0
    assert len(server.sent) == 5


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asks", [{"Retry-After": "0"}, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}])
def test_an_endpoint_that_asks_for_no_time_is_not_asked_without_a_pause(
    workspace, server, step, config, make_dataset, make_rows, status: int, asks: dict[str, str]
) -> None:
    server.otherwise = step(status=status, headers=asks)
    hurried = config.model_copy(update={"patience_s": 2.0, "concurrency": 1})
    with pytest.raises(TeacherFailed):
        label(make_dataset(workspace, make_rows(1)), hurried, workspace)
    assert len(server.sent) <= 3


class _SideBySide:
    """A teacher that has four requests under way before the first is answered, as one on this machine has; it answers all."""

    concurrency, batches = 1, True

    def answer(self, requests):
        drawn = iter(requests)
        while some := list(islice(drawn, 4)):
            for request in some:
                yield request, Reply(text="So.", finish_reason="stop", prompt_tokens=7, completion_tokens=3, latency_ms=1.0)

    def close(self) -> None:
        """Hold nothing."""


@pytest.mark.parametrize("most", [6, 8])
def test_what_a_teacher_on_this_machine_is_at_when_the_budget_ends_still_arrives(
    workspace, config, make_rows, most: int
) -> None:
    firsts = [first_request(row, "t", config) for row in make_rows(20)]
    budget, done = config.budget.model_copy(update={"max_requests": most}), []
    with open_ledger(workspace.ledger("label")) as ledger:
        asker = Asker(_SideBySide(), ledger, config, Account(budget, None, Spent()), lambda _: None)
        with pytest.raises(BudgetReached, match=f"{most} >= {most}"):
            asker.ask_all(firsts, done.append)
        assert ledger.counts() == {"waiting": 0, "answered": most, "failed": 0}
    assert sum(done) == asker.sent == most


def test_the_seconds_of_a_session_are_those_of_teacher_and_judge_together(workspace, config) -> None:
    limited = config.model_copy(update={"budget": config.budget.model_copy(update={"max_s": 0.05})})
    with open_ledger(workspace.ledger("label")) as ledger:
        session = Session(ledger, "0" * 12, lambda _: None, None)
        time.sleep(0.1)
        with pytest.raises(BudgetReached, match=r"label\.budget\.max_s"):
            session.account(limited).allow()
