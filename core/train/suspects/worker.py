"""Which rows a step is made of, rows left out, and figures of single rows. Part of the train worker."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from core.contract import Stage
from core.data.record import TokenisedRow
from core.events import OnEvent, Progress
from core.train.course import Course
from core.train.detection import LONGEST_RUN
from core.train.halted import Evidence, RowFigures
from core.train.held_out.worker import IGNORED, labels_of
from core.train.several import worker as several
from core.train.shards import worker as shards

ROW_PLACES = "row_places"  # a dataset column: for every token the place of its row, so that it survives packing
_ROWS = "rows"  # of a batch: the places of its rows
_MOST_ROWS = 512  # examined one by one


class Collator:
    """Collates as another does, masks the rows that are left out, and says which rows a batch is made of."""

    def __init__(self, inner: Callable[[list[dict[str, Any]]], dict[str, Any]], left_out: Iterable[int]) -> None:
        self._inner = inner
        self._left_out = frozenset(left_out)

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples of the dataset."""
        rows = sorted({place for example in examples for place in example[ROW_PLACES]})
        batch = self._inner([self._masked(example) for example in examples])
        return {**batch, _ROWS: rows}

    def _masked(self, example: dict[str, Any]) -> dict[str, Any]:
        kept = {name: values for name, values in example.items() if name != ROW_PLACES}
        if self._left_out:
            pairs = zip(kept["labels"], example[ROW_PLACES], strict=True)
            kept["labels"] = [IGNORED if place in self._left_out else label for label, place in pairs]
        return kept


class Suspects:
    """Knows the rows of the newest steps and examines them."""

    def __init__(self, rows: Sequence[TokenisedRow], course: Course, reference_rows: int, on_event: OnEvent) -> None:
        self._rows = rows
        self._on_event = on_event
        left_out = frozenset(course.left_out)
        self.left_out = [place for place, row in enumerate(rows) if row.row_id in left_out]
        self._reference_rows = reference_rows
        self._steps: deque[list[int]] = deque([[]], maxlen=LONGEST_RUN)

    def take(self, inputs: dict[str, Any]) -> None:
        """Take the rows out of a batch; they belong to the step under way."""
        self._steps[-1] += inputs.pop(_ROWS, [])

    def next_step(self) -> None:
        """Begin another step."""
        self._steps.append([])

    def examine(self, model: Any, steps: int, computing: AbstractContextManager[Any]) -> Evidence:
        """Return figures of the rows of so many steps, and of others, on the model as it stands; its gradients are lost.

        Every process examines the rows of all: they stand out only together, and where the model lies in shards a row takes
        every process. So each has the same evidence. The model is left in evaluation mode: a worker that examines is at its end.
        """
        met = several.together(place for step in list(self._steps)[-steps:] for place in step)
        places = [place for place in met if place not in self.left_out]
        others = self._others(places)
        model.eval()
        with computing:
            suspects = self._examined(model, places[:_MOST_ROWS], "suspicious")
            return Evidence(rows=suspects, others=self._examined(model, others, "other"))

    def _examined(self, model: Any, places: list[int], which: str) -> tuple[RowFigures, ...]:
        figures = []
        for place in places:
            figures.append(_figures(model, self._rows[place]))
            task = f"examine, {which} rows"
            event = Progress(stage=Stage.TRAIN, task=task, done=len(figures), total=len(places), unit="rows")
            self._on_event(event)
        return tuple(figures)

    def _others(self, places: list[int]) -> list[int]:
        """Return rows spread evenly over the data."""
        taken = {*places, *self.left_out}
        there = [place for place in range(len(self._rows)) if place not in taken]
        count = min(len(there), self._reference_rows)
        return [there[index * len(there) // count] for index in range(count)]


def _figures(model: Any, row: TokenisedRow) -> RowFigures:
    model.zero_grad()
    ids = torch.tensor([row.input_ids], device=model.device)
    labels = torch.tensor([labels_of(row)], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, 1:], ignore_index=IGNORED)
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not type it
    gradients = [shards.whole(p.grad).float().norm() for p in model.parameters() if p.grad is not None]
    norm = float(torch.stack(gradients).norm()) if gradients else 0.0
    model.zero_grad()
    return RowFigures(row_id=row.row_id, loss=_finite(float(loss)), grad_norm=_finite(norm))


def _finite(figure: float) -> float | None:
    return figure if math.isfinite(figure) else None
