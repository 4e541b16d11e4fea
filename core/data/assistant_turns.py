"""Which tokens of a chat are learned: its assistant turns, each with the token that ends it. They are rendered in worker.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from core.contract import Stage
from core.data.record import AssistantTurns, LabeledRow, TokenisedRow
from core.events import Note

_MARK = "#turn"


@dataclass(frozen=True)
class Turn:
    """An assistant turn: `ids` are the chat up to it and with it, of which those from `start` to before `end` are learned."""

    row_id: str
    ids: list[int]
    start: int
    end: int


def chats_up_to_turns(row: LabeledRow, wanted: AssistantTurns) -> list[LabeledRow]:
    """Return the chat up to each assistant turn that is learned, the last is the row itself; the others' ids end in #turnN.

    The held-out split is judged by its answers alone, so that its figures mean the same whatever is learned.
    """
    if wanted == "last" or row.split == "held_out":
        return [row]
    places = [place for place, message in enumerate(row.messages[:-1]) if message.role == "assistant"]
    earlier = [
        row.model_copy(update={"row_id": f"{row.row_id}{_MARK}{number}", "messages": row.messages[: place + 1]})
        for number, place in enumerate(places, start=1)
    ]
    return [*earlier, row]


def is_earlier_turn(row: LabeledRow) -> bool:
    """Tell whether a row is a chat up to a turn before its answer."""
    return _MARK in row.row_id


def learned(turns: Sequence[Turn], max_length: int) -> list[TokenisedRow]:
    """Return the rows that teach the turns of a chat, of which the last is its answer; none where truncation leaves nothing.

    One row teaches all where the template renders each turn, and what stands before it, the same in the whole chat; else
    there is one a turn, whose prompt is what the student is given when it has to write this turn.
    """
    answer = turns[-1]
    if _are_together(turns):
        rows = [_row(turns, max_length, None)]
    else:
        rows = [_row([turn], max_length, None if turn is answer else answer.row_id) for turn in turns]
    return [row for row in rows if row.input_ids]


def _are_together(turns: Sequence[Turn]) -> bool:
    whole = turns[-1].ids
    return all(turn.ids[: turn.end] == whole[: turn.end] for turn in turns) and all(
        turn.end <= following.start for turn, following in pairwise(turns)
    )


def _row(turns: Sequence[Turn], max_length: int, turn_of: str | None) -> TokenisedRow:
    """Return a row that ends with the last token it teaches; it is empty where truncation leaves none."""
    last = turns[-1]
    mask = [0] * last.end
    for turn in turns:
        mask[turn.start : turn.end] = [1] * (turn.end - turn.start)
    end = max((min(turn.end, max_length) for turn in turns if turn.start < max_length), default=0)
    return TokenisedRow(
        row_id=last.row_id,
        input_ids=tuple(last.ids[:end]),
        completion_mask=tuple(mask[:end]),
        last_turn=last.start if len(turns) > 1 else None,
        turn_of=turn_of,
    )


@dataclass
class Tally:
    """What became of chats with several assistant turns."""

    max_length: int
    chats: int = 0
    split: list[str] = field(default_factory=list)
    turns: int = 0
    cut: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)

    def add(self, turns: Sequence[Turn], rows: Sequence[TokenisedRow]) -> None:
        """Count a chat and the rows made of it; one with a single turn is not counted."""
        if len(turns) == 1:
            return
        self.chats += 1
        self.turns += len(turns)
        self.split += [turns[-1].row_id] if len(rows) > 1 else []
        self.cut += [turn.row_id for turn in turns if turn.start >= self.max_length]

    def notes(self) -> Iterator[Note]:
        """Yield what is worth telling."""
        if self.split:
            text = (
                f"{len(self.split)} of {self.chats} chats with several assistant turns become a row a turn, first row "
                f"{self.split[0]}: the student's chat template renders an earlier turn otherwise once others follow"
            )
            yield Note(stage=Stage.TRAIN, text=text)
        if self.unseen:
            text = (
                f"the student's chat template shows nothing of {len(self.unseen)} assistant turns that only call tools, "
                f"first row {self.unseen[0]}: they are not learned"
            )
            yield Note(stage=Stage.TRAIN, text=text, level="warning")
        if self.cut:
            text = (
                f"{len(self.cut)} of {self.turns} assistant turns begin behind train.max_length {self.max_length} and are "
                f"not learned, first row {self.cut[0]}"
            )
            yield Note(stage=Stage.TRAIN, text=text, level="warning")
