"""The loss of a student that learns from its teacher's likeliest tokens beside the answers. Part of the train worker.

For a token with a word of the teacher it is (1 - weight) CE + weight T^2 KL, for any other CE alone: the teacher answered the
last turn of a chat, so the assistant's earlier turns are learned by CE.

KL is that of the teacher's to the student's distribution over k + 1 outcomes: the k tokens the teacher named, and all others
as one (the rest of both masses). Joining outcomes never raises KL (data processing inequality), so it is a lower bound of
that over the vocabulary, and exact where k is all of it. A temperature T takes each of the k + 1 to the power of 1 / T and
normalises anew; T^2 keeps the gradients' size (Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015,
section 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from core.contract import Stage
from core.data.record import TokenisedRow
from core.events import Note, OnEvent
from core.train import teacher
from core.train.held_out.worker import IGNORED
from core.train.request import TrainRequest
from core.train.section import DistillationConfig
from core.train.teacher import Guidance

START, TOKENS, LOGPROBS, WIDTH = "teacher_start", "teacher_tokens", "teacher_logprobs", "teacher_width"
COLUMNS = (START, TOKENS, LOGPROBS, WIDTH)
_ABSENT = -1
_LEAST_REST = 1e-7  # float32 cannot tell a smaller rest from none
_NEVER = -1e4  # the logarithm of nothing, such that nothing times it is nothing

Batch = dict[str, Any]


def ordered(rows: list[TokenisedRow], request: TrainRequest, on_event: OnEvent) -> list[TokenisedRow]:
    """Return the rows in the configured order; a shuffled one is the sampler's."""
    if request.config.order == "by_length":
        return sorted(rows, key=lambda row: len(row.input_ids))
    if request.config.order == "by_teacher_loss" and request.logprobs:
        rows, unknown = teacher.by_teacher_loss(rows, Path(request.logprobs))
        if unknown:
            text = (
                f"{unknown} of {len(rows)} rows come last: the teacher's log-probabilities of their answers are not known"
            )
            on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))
    return rows


def teacher_columns(
    rows: list[TokenisedRow], request: TrainRequest, tokenizer: Any, on_event: OnEvent
) -> dict[str, list[Any]]:
    """Return what the rows' dataset needs for distillation, nothing without it; DataError where tokenizers differ."""
    if request.config.distillation is None or request.logprobs is None:
        return {}
    guided = teacher.guidance(rows, Path(request.logprobs), len(tokenizer), lambda token: _text(tokenizer, token))
    chats = sum(row.turn_of is None for row in rows)
    missing = chats - len(guided.rows)
    text = f"{guided.matched} of {guided.tokens} tokens of the teacher's answers are learned from with its words"
    told = f"{text}; {missing} of {chats} rows have none" if missing else text
    on_event(Note(stage=Stage.TRAIN, text=told, level="warning" if missing else "info"))
    return columns(rows, guided.rows)


def _text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))


def columns(rows: Sequence[TokenisedRow], guided: dict[str, Guidance]) -> dict[str, list[Any]]:
    """Return the teacher's words as columns of a dataset, flat lists of `width` entries a token."""
    width = max((len(top) for one in guided.values() for top in one.tokens), default=0)
    made: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    nothing = Guidance(0, [], [])
    for row in rows:
        one = guided.get(row.row_id, nothing)
        made[START].append(one.start)
        made[TOKENS].append([token for top in one.tokens for token in _filled(top, width, _ABSENT)])
        made[LOGPROBS].append([chance for top in one.logprobs for chance in _filled(top, width, 0.0)])
        made[WIDTH].append(width)
    return made


def _filled(values: Sequence[Any], width: int, filler: float) -> list[Any]:
    return [*values, *([filler] * (width - len(values)))]


def collator(plain: Callable[[list[Batch]], Batch]) -> Callable[[list[Batch]], Batch]:
    """Return a collator that adds the teacher's words to a batch, laid beside its labels."""

    def collate(examples: list[Batch]) -> Batch:
        batch = plain(examples)
        shape = (*batch["labels"].shape, max(1, examples[0][WIDTH]))
        tokens, chances = torch.full(shape, _ABSENT), torch.zeros(shape)
        for number, example in enumerate(examples):
            if not example[TOKENS]:
                continue
            told = torch.tensor(example[TOKENS]).view(-1, shape[-1])
            place = slice(example[START], example[START] + len(told))
            tokens[number, place] = told
            chances[number, place] = torch.tensor(example[LOGPROBS]).view(-1, shape[-1])
        return {**batch, TOKENS: tokens, LOGPROBS: chances}

    return collate


def distilled_loss(
    model: Any, inputs: Batch, config: DistillationConfig, tokens: int | torch.Tensor | None, ranks: int = 1
) -> torch.Tensor:
    """Return the loss of a batch, summed over its tokens and divided by their number, or by `tokens` of so many `ranks` together."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False).logits
    labels = inputs["labels"][:, 1:]
    trained = labels != IGNORED
    chances = torch.log_softmax(logits[:, :-1][trained].float(), dim=-1)
    entropies = -chances.gather(-1, labels[trained].unsqueeze(-1)).squeeze(-1)
    likeliest, told = inputs[TOKENS][:, 1:][trained], inputs[LOGPROBS][:, 1:][trained]
    guided = (likeliest != _ABSENT).any(dim=-1)
    mixed = (1 - config.weight) * entropies + config.weight * config.temperature**2 * divergence(
        chances, likeliest, told, config.temperature
    )
    total: torch.Tensor = torch.where(guided, mixed, entropies).sum()
    if tokens is None:
        mean: torch.Tensor = total / trained.sum().clamp(min=1)
        return mean
    return ranks * total / torch.as_tensor(tokens, device=total.device).clamp(min=1)


def divergence(chances: torch.Tensor, likeliest: torch.Tensor, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return KL(teacher || student) of each token, in nats, over the teacher's likeliest tokens and all others as one.

    `chances` are the student's log-probabilities over its vocabulary; `likeliest` are token ids, -1 where there is none,
    `told` their log-probabilities for the teacher.
    """
    there = likeliest != _ABSENT
    theirs = _with_rest(told.masked_fill(~there, _NEVER))
    ours = _with_rest(chances.gather(-1, likeliest.clamp(min=0)).masked_fill(~there, _NEVER))
    theirs, ours = (torch.log_softmax(each / temperature, dim=-1) for each in (theirs, ours))
    return (theirs.exp() * (theirs - ours)).sum(dim=-1)


def _with_rest(logs: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities with that of all other outcomes behind them."""
    rest = -torch.expm1(torch.logsumexp(logs, dim=-1).clamp(max=-_LEAST_REST))
    return torch.cat([logs, rest.log().unsqueeze(-1)], dim=-1)
