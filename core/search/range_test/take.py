"""Takes a learning-rate range test once: chooses and tokenises its rows, calls its worker, keeps its curve."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from core.catalogue import ModelCard
from core.contract import Stage
from core.data.record import LabeledRow
from core.data.tokens import tokenise
from core.events import Note, OnEvent
from core.files import write_atomic, write_json_lines
from core.search.range_test.curve import Curve, RangeTestRequest
from core.search.rows import chosen
from core.search.section import RangeTest
from core.train import student
from core.train.section import TrainConfig
from core.worker_process import call


def take(
    train_rows: Path, test: RangeTest, config: TrainConfig, card: ModelCard, folder: Path, *, on_event: OnEvent
) -> Curve:
    """Return the curve of a range test; `folder` keeps it, so that a search that goes on does not take it again."""
    kept = folder / "range_test.json"
    if kept.is_file():
        try:
            return Curve.model_validate_json(kept.read_bytes())
        except ValidationError as error:
            text = f"{kept} is damaged, the test is taken again: {error.errors()[0]['msg']}"
            on_event(Note(stage=Stage.SEARCH, text=text, level="warning"))
    scratch = folder / "range_test"
    source = student.folder(card, on_event)
    wanted = test.steps * config.per_device_train_batch_size * config.gradient_accumulation_steps
    rows = [LabeledRow.model_validate(record) for record in chosen(train_rows, wanted)]
    turns = config.assistant_turns
    tokens = tokenise(rows, source, config.max_length, scratch / "tokens", on_event, assistant_turns=turns)
    write_json_lines(scratch / "train.jsonl", (row.model_dump(mode="json") for row in tokens))
    request = RangeTestRequest(student_folder=str(source), train=str(scratch / "train.jsonl"), config=config, test=test)
    curve = call("core.search.range_test.worker", request, Curve, scratch / "worker", on_event, timeout_s=config.timeout_s)
    write_atomic(kept, curve.model_dump_json().encode())
    return curve
