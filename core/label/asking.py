"""Sends what the ledger lacks to a teacher, some requests at once, with bounded attempts; every answer goes through the ledger."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from core.config import LabelConfig
from core.contract import Contract
from core.errors import TeacherFailed
from core.label.ask import Problem, completion_of, second_request
from core.label.ledger import Ledger, Reply, Request
from core.label.teachers import Teacher, Trouble

_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
_GRACE_S = 5.0  # for answers under way when the stage is interrupted; they are paid for
_DOWN_AFTER = 8  # requests that fail in a row, each after all its attempts, mean that the teacher is down, not the prompts


class Outcome(Contract):
    """How the question of one row stands: a completion, a problem, or (with `missing`) a request without an answer."""

    completion: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    problem: Problem | None = None
    missing: Request | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def follow(first: Request, ledger: Ledger) -> Outcome:
    """Read from the ledger alone how a question stands, through its second request where there was one."""
    replies: list[Reply] = []
    request = first
    while True:
        entry = ledger.find(request.key)
        if entry is None or entry.reply is None:
            reason = (entry.error if entry else None) or "it was never answered"
            return _outcome(replies, problem=Problem(code="teacher-error", reason=reason), missing=request)
        replies.append(entry.reply)
        found = completion_of(entry.reply, first.answer_schema)
        if isinstance(found, str):
            return _outcome(replies, completion=found)
        second = second_request(first, entry.reply, found) if request is first else None
        if second is None:
            return _outcome(replies, problem=found)
        request = second


def _outcome(
    replies: Sequence[Reply],
    completion: str | None = None,
    problem: Problem | None = None,
    missing: Request | None = None,
) -> Outcome:
    return Outcome(
        completion=completion,
        tool_calls=replies[-1].tool_calls if completion is not None else (),
        problem=problem,
        missing=missing,
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
    )


class Asker:
    """Asks one teacher. `sent` counts the sendings of this process."""

    def __init__(self, teacher: Teacher, ledger: Ledger, config: LabelConfig) -> None:
        self.sent = 0
        self._teacher = teacher
        self._ledger = ledger
        self._config = config
        self._stop = threading.Event()
        self._count = threading.Lock()
        self._failed_in_a_row = 0

    def ask_all(self, requests: Sequence[Request], on_done: Callable[[], None]) -> None:
        """Pursue every question; TeacherFailed when the teacher can answer none of them.

        `on_done` is called in this thread after each. On an interrupt nothing new is sent, what is under way gets some
        seconds to arrive, and the ledger stays true in any case.
        """
        if self._teacher.concurrency == 1:
            self._ask_in_one_call(requests, on_done)
            return
        with self._pool() as running:
            for request in requests:
                if len(running) >= self._teacher.concurrency:
                    _collect(running, on_done)
                running.add(self._executor.submit(self._pursue, request))
            while running:
                _collect(running, on_done)

    def _ask_in_one_call(self, requests: Sequence[Request], on_done: Callable[[], None]) -> None:
        """Let the teacher draw what it can begin with; a question is drawn again until nothing is missing."""
        open_questions, under_way = deque(requests), dict[str, Request]()
        while open_questions:
            drawn = self._draw(open_questions, under_way, on_done)
            for request, outcome in self._teacher.answer(drawn):
                first = under_way.pop(request.key)
                if isinstance(outcome, Reply):
                    self._ledger.commit(request.key, outcome)
                    open_questions.appendleft(first)
                else:
                    self._ledger.fail(request.key, outcome.reason)
                    on_done()

    def _draw(
        self, open_questions: deque[Request], under_way: dict[str, Request], on_done: Callable[[], None]
    ) -> Iterator[Request]:
        while open_questions:
            first = open_questions.popleft()
            request = follow(first, self._ledger).missing
            if request is None or request.key in under_way:
                on_done()
                continue
            self._begin(request)
            under_way[request.key] = first
            yield request

    @contextmanager
    def _pool(self) -> Iterator[set[Future[None]]]:
        running: set[Future[None]] = set()
        self._executor = ThreadPoolExecutor(self._teacher.concurrency, thread_name_prefix="teacher")
        try:
            yield running
        finally:
            self._stop.set()
            if wait(running, timeout=_GRACE_S).not_done:
                self._teacher.close()
            self._executor.shutdown(wait=True, cancel_futures=True)

    def _pursue(self, first: Request) -> None:
        """Ask until a question has its completion or its problem; at most two requests."""
        while not self._stop.is_set() and (request := follow(first, self._ledger).missing) is not None:
            if not self._send(request):
                return

    def _send(self, request: Request) -> bool:
        """Send a request up to `attempts` times and return whether it was answered."""
        for attempt in range(1, self._config.attempts + 1):
            self._begin(request)
            outcome = self._once(request)
            if isinstance(outcome, Reply):
                self._ledger.commit(request.key, outcome)
                self._failed_in_a_row = 0
                return True
            self._ledger.fail(request.key, outcome.reason)
            if not self._tries_again(request, outcome, attempt):
                self._judge_failure(outcome)
                return False
        return False

    def _begin(self, request: Request) -> None:
        self._ledger.begin(request)
        with self._count:
            self.sent += 1

    def _once(self, request: Request) -> Reply | Trouble:
        try:
            ((_, outcome),) = self._teacher.answer([request])
            return outcome
        except TeacherFailed as error:
            self._ledger.fail(request.key, error.problem)
            raise

    def _tries_again(self, request: Request, trouble: Trouble, attempt: int) -> bool:
        """Wait before the next attempt; False when there is none, or when the stage is being stopped."""
        too_long = (trouble.retry_after_s or 0.0) > self._config.timeout_s
        if attempt == self._config.attempts or not trouble.retryable or too_long:
            return False
        return not self._stop.wait(_delay_s(request, trouble, attempt))

    def _judge_failure(self, trouble: Trouble) -> None:
        if not trouble.retryable or self._stop.is_set():
            return
        with self._count:
            self._failed_in_a_row += 1
        if self._failed_in_a_row >= _DOWN_AFTER:
            raise TeacherFailed(
                f"{self._failed_in_a_row} requests in a row got no answer, the last: {trouble.reason}",
                remedy="Look whether the teacher runs, then run the same command again: only what is missing is asked.",
            )


def _collect(running: set[Future[None]], on_done: Callable[[], None]) -> None:
    for future in wait(running, return_when=FIRST_COMPLETED).done:
        running.discard(future)
        future.result()
        on_done()


def _delay_s(request: Request, trouble: Trouble, attempt: int) -> float:
    """Return how long to wait: what the endpoint asked for, else doubling steps, spread by the request's own hash."""
    if trouble.retry_after_s is not None:
        return trouble.retry_after_s
    spread = 1 + int(request.key[:4], 16) / 0xFFFF
    return min(_LONGEST_BACKOFF_S, _BACKOFF_S * spread * float(2 ** (attempt - 1)))
