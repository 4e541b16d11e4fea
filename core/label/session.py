"""One labelling at work, or the judging of one comparison: its line in the ledger and its progress, both kept while it asks and closed however it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from core.config import LabelConfig
from core.contract import Stage
from core.errors import EdgekilnError
from core.events import OnEvent, Progress
from core.label.account import Account
from core.label.ledger import Ledger
from core.label.questions import Survey

_TELL_EVERY_S = 0.2


@dataclass(frozen=True)
class Session:
    """What all asking of one labelling shares: the ledger, the artifact it is for, who hears of it, where cards lie."""

    ledger: Ledger
    artifact_id: str
    on_event: OnEvent
    beside: Path | None
    began_s: float = field(default_factory=time.perf_counter)

    def account(self, config: LabelConfig) -> Account:
        """Return an account that begins with what earlier sessions took, and whoever was asked before in this one."""
        return Account(config.budget, config.prices, self.ledger.spent(self.artifact_id), self.began_s)

    @contextmanager
    def open(self, teacher: str, found: Survey) -> Iterator[Callable[[int], None]]:
        """Write a session into the ledger; yields what counts so many questions as done."""
        done, told_at = 0, 0.0
        task = f"asking {teacher}"

        def step(change: int) -> None:
            nonlocal done, told_at
            done += change
            now = time.perf_counter()
            if done == found.open or now - told_at >= _TELL_EVERY_S:
                told_at = now
                self.ledger.tell(done)
                so_far, total = found.settled + done, found.questions
                self.on_event(Progress(stage=Stage.LABEL, task=task, done=so_far, total=total, unit="answers"))

        self.ledger.start(self.artifact_id, teacher, found.questions, found.settled)
        with ExitStack() as stack:
            stack.push(lambda kind, error, trace: self.ledger.tell(done, _end(error)))  # noqa: ARG005  # whatever it is
            yield step


def _end(error: BaseException | None) -> str:
    if error is None:
        return "done"
    return error.code if isinstance(error, EdgekilnError) else type(error).__name__
