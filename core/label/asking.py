"""Sends what the ledger lacks to a teacher: bounded attempts, a pace the endpoint can hold, a pause while it is down.

Every answer goes through the ledger. A teacher in process draws requests as it can begin with them; an endpoint is asked
from threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import count, islice

from core.config import LabelConfig
from core.contract import Stage
from core.errors import BudgetReached, TeacherFailed
from core.events import Continued, Note, OnEvent, Paused
from core.label.account import Account
from core.label.breaker import Breaker
from core.label.ledger import Ledger
from core.label.outcome import follow
from core.label.pace import Pace
from core.label.request import Reply, Request
from core.label.teachers import Teacher, Trouble

_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
_GRACE_S = 5.0  # for answers under way when the stage is interrupted; they are paid for
_SOON_S = 60.0  # an endpoint that asks for less is waited for by the row that has the patience
_LOOK_S = 0.5  # how soon a waiting thread sees that the stage is being stopped

OnDone = Callable[[int], None]


class Asker:
    """Asks one teacher. `sent` counts the sendings of this process."""

    def __init__(self, teacher: Teacher, ledger: Ledger, config: LabelConfig, account: Account, on_event: OnEvent) -> None:
        self.sent = 0
        self._teacher = teacher
        self._ledger = ledger
        self._config = config
        self._account = account
        self._on_event = on_event
        self._stop = threading.Event()
        self._state = threading.Lock()
        self._tickets = count()
        self._queue: dict[int, threading.Condition] = {}  # who waits for a place, the first in front
        self._pace = Pace(teacher.concurrency)
        self._breaker = Breaker()
        self._under_way: dict[str, Request] = {}
        self._sending = 0
        self._not_before = 0.0
        self._in_streak: list[Request] = []
        self._lost: deque[Request] = deque()
        self._told: set[str] = set()
        self._failed = 0
        self._may_fail = math.inf
        self._stopped_by: BudgetReached | None = None

    @property
    def gave_up(self) -> bool:
        """Whether more questions ended without a completion than may; not yet those for which the endpoint may be to blame."""
        return self._failed - len(self._in_streak) - len(self._lost) > self._may_fail

    def ask_all(self, firsts: Iterable[Request], on_done: OnDone, may_fail: float = math.inf) -> None:
        """Pursue every question, drawn one by one; TeacherFailed when the teacher can answer none, BudgetReached.

        When more than `may_fail` came to nothing no other is drawn, and `gave_up` says so.
        `on_done` is called in this thread with 1 after each, with -1 for one that is asked once more. On an interrupt
        nothing new is sent, what is under way gets some seconds to arrive, and the ledger stays true in any case.
        """
        waiting = iter(firsts)
        self._may_fail = may_fail
        if self._teacher.batches:
            self._ask_in_one_call(waiting, on_done)
            return
        with self._pool(on_done) as running:
            while (first := self._next(waiting, on_done)) is not None or running:
                if first is None or len(running) >= self._teacher.concurrency:
                    self._collect(running, on_done)
                if first is not None:
                    running.add(self._submit(first))

    def _collect(self, running: set[Future[bool | None]], on_done: OnDone) -> None:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            running.discard(future)
            if (answered := future.result()) is not None:
                self._failed += not answered
                on_done(1)

    def _submit(self, first: Request) -> Future[bool | None]:
        """Let a thread pursue a question, which has its turn after those that were submitted before."""
        ticket = next(self._tickets)
        with self._state:
            self._line_up(ticket)
        return self._executor.submit(self._pursue, first, ticket)

    def _next(self, waiting: Iterator[Request], on_done: OnDone) -> Request | None:
        """Return the next question: one that failed only because the endpoint was down, else a new one."""
        with self._state:
            lost = self._lost.popleft() if self._lost else None
        if lost is not None:
            self._failed -= 1
            on_done(-1)
        return lost or (None if self.gave_up else next(waiting, None))

    def _ask_in_one_call(self, firsts: Iterator[Request], on_done: OnDone) -> None:
        """Let the teacher draw what it can begin with; a question is drawn again until nothing is missing."""
        replied: deque[Request] = deque()
        while True:
            for request, outcome in self._teacher.answer(self._draw(firsts, replied, on_done)):
                first = self._under_way.pop(request.key)
                if isinstance(outcome, Reply):
                    self._commit(request, outcome)
                    replied.append(first)
                else:
                    self._fail(request, outcome)
                    self._failed += 1
                    on_done(1)
            if not replied or self.gave_up:
                break
        if self._stopped_by is not None:
            raise self._stopped_by

    def _draw(self, firsts: Iterator[Request], replied: deque[Request], on_done: OnDone) -> Iterator[Request]:
        while not self.gave_up and (first := self._following(firsts, replied)) is not None:
            found = follow(first, self._ledger)
            request = found.missing
            if request is None or request.key in self._under_way:
                self._failed += request is None and found.completion is None
                on_done(1)
                continue
            if self._may_begin(request):
                self._under_way[request.key] = first
                yield request

    def _following(self, firsts: Iterator[Request], replied: deque[Request]) -> Request | None:
        if replied:
            return replied.popleft()
        return next(firsts, None) if self._stopped_by is None else None

    def _may_begin(self, request: Request) -> bool:
        """Begin with a request; False when the budget is used up, which is raised when what is under way has arrived."""
        try:
            self._begin(request)
        except BudgetReached as error:
            self._stopped_by = error
        return self._stopped_by is None

    @contextmanager
    def _pool(self, on_done: OnDone) -> Iterator[set[Future[bool | None]]]:
        running: set[Future[bool | None]] = set()
        self._executor = ThreadPoolExecutor(self._teacher.concurrency, thread_name_prefix="teacher")
        grace_s = _GRACE_S
        try:
            yield running
        except BudgetReached:
            grace_s = self._config.timeout_s  # nobody is in a hurry, and what is under way is paid for
            raise
        finally:
            self._stop.set()
            ended = wait(running, timeout=grace_s)
            if ended.not_done:
                self._teacher.close()
            self._executor.shutdown(wait=True, cancel_futures=True)
            if late := sum(future.exception() is None and future.result() is not None for future in ended.done):
                on_done(late)

    def _pursue(self, first: Request, ticket: int) -> bool | None:
        """Ask until a question has its completion or its problem, at most two requests; None when it was not asked any more.

        False when it got no completion.
        """
        try:
            while (request := (found := follow(first, self._ledger)).missing) is not None and not self._stop.is_set():
                with self._state:
                    if request.key in self._under_way:  # another row asks the same
                        return True
                    self._under_way[request.key] = first
                try:
                    if self._is_answered(request):  # by another row's asking, between the two looks
                        continue
                    answered = self._send(first, request, ticket)
                finally:
                    with self._state:
                        del self._under_way[request.key]
                if not answered:
                    return answered
            return None if request is not None else found.completion is not None
        finally:
            with self._state:
                self._step_out(ticket)

    def _is_answered(self, request: Request) -> bool:
        entry = self._ledger.find(request.key)
        return entry is not None and entry.reply is not None

    def _send(self, first: Request, request: Request, ticket: int) -> bool | None:
        """Send a request up to `attempts` times, not counting those the endpoint was away for; say whether it was answered.

        None when it was not sent at all.
        """
        attempt, sent, began = 0, None, time.perf_counter()
        while attempt < self._config.attempts and self._enter(ticket):
            sent = False
            outcome = self._once(request)
            if isinstance(outcome, Reply):
                return True
            if not outcome.retryable:
                return False
            if self._breaker.open_since is not None or outcome.retry_after_s is not None:
                if time.perf_counter() - began + (outcome.retry_after_s or 0.0) > self._config.patience_s:
                    return False
                continue  # the pause, or what the endpoint asked for, is the wait
            attempt += 1
            if attempt < self._config.attempts and self._stop.wait(_delay_s(request, attempt)):
                return False
        if attempt >= self._config.attempts:
            with self._state:  # a pause may have begun since, and then it is the endpoint that is to blame
                (self._in_streak if self._breaker.open_since is None else self._lost).append(first)
        return sent

    def _enter(self, ticket: int) -> bool:
        """Wait for a place at the endpoint; False when no more is asked, TeacherFailed when it stays away.

        Places are given in the order of the queue. Who comes again after a failure stands at its end: in a pause each
        try of the door is another question's, as one question may be what the endpoint dies of.
        """
        with self._state:
            turn = self._line_up(ticket)
            try:
                while not (self._stop.is_set() or self.gave_up):
                    if (wait_s := self._wait_s(ticket)) <= 0:
                        self._sending += 1
                        return True
                    turn.wait(min(wait_s, _LOOK_S))
                return False
            finally:
                self._step_out(ticket)

    def _wait_s(self, ticket: int) -> float:
        """Return how long one in the queue has to wait before it looks again, 0 for the place."""
        now = time.perf_counter()
        if (since := self._breaker.open_since) is not None and now - since > self._config.patience_s:
            raise self._gone(now - since)
        if ticket != next(iter(self._queue)) or self._sending >= self._pace.limit:
            return _LOOK_S
        if (wait_s := self._not_before - now) > 0:
            return wait_s
        return self._breaker.wait_s(now)  # asked last: its leave to try in a pause is given to one alone

    def _line_up(self, ticket: int) -> threading.Condition:
        return self._queue.setdefault(ticket, threading.Condition(self._state))

    def _step_out(self, ticket: int) -> None:
        self._queue.pop(ticket, None)
        self._call_next()

    def _call_next(self) -> None:
        """Have the first in the queue look again; the others would look in vain."""
        for turn in islice(self._queue.values(), 1):
            turn.notify()

    def _once(self, request: Request) -> Reply | Trouble:
        began = time.perf_counter()
        try:
            self._begin(request)
            ((_, outcome),) = self._teacher.answer([request])
        except TeacherFailed as error:
            self._ledger.fail(request.key, error.problem)
            raise
        finally:
            with self._state:
                self._sending -= 1
                self._call_next()
        if isinstance(outcome, Reply):
            self._commit(request, outcome)
            self._note_answer(outcome, began)
        else:
            self._fail(request, outcome)
            self._note_trouble(outcome, began)
        return outcome

    def _begin(self, request: Request) -> None:
        with self._state:
            self._account.allow()
            self.sent += 1
        self._ledger.begin(request)

    def _commit(self, request: Request, reply: Reply) -> None:
        with self._state:
            cost = self._account.charge(reply)
        self._ledger.commit(request.key, reply, cost)
        self._account.check_counts(reply)

    def _fail(self, request: Request, trouble: Trouble) -> None:
        """Note a failure; each kind that no retry can mend is told once, not for every row."""
        self._ledger.fail(request.key, trouble.reason, trouble.code)
        if trouble.retryable:
            return
        with self._state:
            first_of_its_kind = trouble.code not in self._told
            self._told.add(trouble.code)
        if first_of_its_kind:
            text = f"a row is set aside, and so is every other for which it holds: {trouble.reason}"
            self._on_event(Note(stage=Stage.LABEL, level="warning", text=text))

    def _note_answer(self, reply: Reply, began: float) -> None:
        with self._state:
            self._pace.answered(began, time.perf_counter(), reply.completion_tokens)
            ends = self._breaker.answered(began)
            self._in_streak.clear()
            self._call_next()
        if ends:
            self._on_event(Continued(stage=Stage.LABEL))

    def _note_trouble(self, trouble: Trouble, began: float) -> None:
        now = time.perf_counter()
        with self._state:
            if (trouble.retry_after_s or 0.0) > max(_SOON_S, self._config.patience_s):
                raise self._busy_for(trouble)
            if trouble.retryable:
                self._pace.objected(began, now)
            begins = ends = False
            if not trouble.retryable or trouble.retry_after_s is not None:  # it is there: it said no, or when it has time
                ends = self._breaker.answered(began)
                self._in_streak.clear()
                wait_s = min(trouble.retry_after_s or 0.0, self._config.patience_s)
                self._not_before = max(self._not_before, now + wait_s)
            else:
                begins = self._breaker.failed(now)
            if begins and not self._breaker.answered_ever:
                raise self._gone(0.0, trouble)
            if begins:
                self._lost.extend(self._in_streak)
                self._in_streak.clear()
            self._call_next()
        if begins:
            self._on_event(Paused(stage=Stage.LABEL, reason=trouble.reason, patience_s=self._config.patience_s))
        if ends:
            self._on_event(Continued(stage=Stage.LABEL))

    def _busy_for(self, trouble: Trouble) -> TeacherFailed:
        asked_s, patience_s = trouble.retry_after_s or 0.0, self._config.patience_s
        return TeacherFailed(
            f"the endpoint asks to be left alone for {asked_s:.0f} s > {patience_s:g}, label.patience_s: {trouble.reason}",
            remedy="Run the same command again after that time, or raise label.patience_s; every answer is kept.",
        )

    def _gone(self, waited_s: float, trouble: Trouble | None = None) -> TeacherFailed:
        last = f", the last: {trouble.reason}" if trouble else ""
        waited = f" and none for {waited_s:.0f} s > label.patience_s {self._config.patience_s:g}" if waited_s else ""
        return TeacherFailed(
            f"{self._breaker.failed_in_a_row} requests in a row got no answer{waited}{last}",
            remedy="Look whether the teacher runs, then run the same command again: only what is missing is asked.",
        )


def _delay_s(request: Request, attempt: int) -> float:
    """Return how long to wait: doubling steps, spread by the request's own hash."""
    spread = 1 + int(request.key[:4], 16) / 0xFFFF
    return min(_LONGEST_BACKOFF_S, _BACKOFF_S * spread * float(2 ** (attempt - 1)))
