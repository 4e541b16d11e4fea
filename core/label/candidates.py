"""The answers to one question that may be learned, and why the others may not: read from the ledger, judged by the rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.data.record import Reject
from core.label.answer_gate import AnswerGate
from core.label.ask import set_aside
from core.label.ledger import Ledger
from core.label.outcome import Outcome, follow
from core.label.questions import Question


@dataclass(frozen=True)
class Candidate:
    """A valid answer, the sample it is."""

    sample: int
    outcome: Outcome
    completion: str

    @property
    def said(self) -> str:
        """Its text and what it calls: what samples are compared by, and what a judge is shown."""
        functions = (call["function"] for call in self.outcome.tool_calls)
        return "\n".join(filter(None, [self.completion, *(f"{each['name']}({each['arguments']})" for each in functions)]))


@dataclass
class Candidates:
    """How all samples of a question ended; without a valid one `rejected` is not empty."""

    outcomes: list[Outcome]
    valid: list[Candidate] = field(default_factory=list)
    rejected: list[Reject] = field(default_factory=list)


def candidates_of(question: Question, ledger: Ledger, gate: AnswerGate) -> Candidates:
    """Judge the answers to a question."""
    row = question.row
    found = Candidates([follow(first, ledger) for first in question.requests])
    for sample, outcome in enumerate(found.outcomes):
        if outcome.completion is None:
            found.rejected.extend([set_aside(row, outcome.problem)] if outcome.problem else [])
        elif reject := gate.refuses(row, outcome.completion, outcome.tool_calls):
            found.rejected.append(reject)
        else:
            found.valid.append(Candidate(sample, outcome, outcome.completion))
    return found
