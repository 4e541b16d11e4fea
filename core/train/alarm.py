"""What a detector says of a training: the figure, its limit and its baseline."""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat

from core.contract import Contract

Metric = Literal["loss", "grad_norm", "held_out_loss", "silence_s"]
AlarmKind = Literal["nan", "infinite", "spike", "run", "diverging", "stuck", "plateau", "vanishing", "zero"]

_WARNINGS = frozenset({"plateau", "vanishing", "zero"})
_WORDS: dict[AlarmKind, str] = {
    "nan": "is no number",
    "infinite": "is infinite",
    "spike": "is a spike",
    "run": "stays high",
    "diverging": "rises",
    "stuck": "lasts too long",
    "plateau": "falls no more",
    "vanishing": "vanishes",
    "zero": "is not above zero, so no token was learned from",
}


class Alarm(Contract):
    """One thing wrong at one step; `figure` is None where it is no finite number.

    `baseline` is what was usual before: a median of steps, the best held-out loss, the usual step time.
    """

    kind: AlarmKind
    metric: Metric
    step: int
    figure: FiniteFloat | None
    limit: FiniteFloat | None = None
    baseline: FiniteFloat | None = None

    @property
    def is_warning(self) -> bool:
        """Say whether it is only told and nothing is done."""
        return self.kind in _WARNINGS

    @property
    def text(self) -> str:
        """Say it in one line for a person."""
        figures = [
            f"{name} {value:.4g}"
            for name, value in (("measured", self.figure), ("limit", self.limit), ("usual", self.baseline))
            if value is not None
        ]
        told = f": {', '.join(figures)}" if figures else ""
        return f"step {self.step}: {self.metric} {_WORDS[self.kind]}{told}"
