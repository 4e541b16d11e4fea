"""Runs a GGUF file with llama.cpp: held-out loss on given token ids, a greedy answer, the tokenizer's ids."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from core import toolchain
from core.contract import Stage
from core.data.record import TokenisedRow
from core.events import OnEvent, Progress
from core.export.gguf_loss.loss import Trial, TrialRequest
from core.export.gguf_loss.runner import Runner, refused, surprise
from core.export.merge import GreedyAnswer, ReferenceText
from core.files import read_json_lines
from core.worker_process import main


def work(request: TrialRequest, _folder: Path, on_event: OnEvent) -> Trial:
    """Measure one file."""
    toolchain.use_libraries(request.toolchain)
    gguf = Path(request.gguf)
    longest = max(len(row.input_ids) for row in request.rows)
    answers = max((len(answer.ids) for answer in request.greedy), default=0)
    runner = Runner(gguf, longest + max(request.answer_tokens, answers), Path(request.adapter) if request.adapter else None)
    _check_ids(runner, request.rows, gguf.name)
    compared, differing = _compared(runner, request)
    loss = _held_out_loss(runner, request.rows, gguf.name, on_event)
    return Trial(
        held_out_loss=loss if np.isfinite(loss) else None,
        sample=_answer(runner, request.rows[0], request.answer_tokens),
        texts=compared,
        tokenizer_mismatches=len(differing),
        first_mismatch=differing[0][:80] if differing else None,
        splits=tuple(margin for answer in request.greedy if (margin := _split(runner, answer)) is not None),
    )


def _compared(runner: Runner, request: TrialRequest) -> tuple[int, list[str]]:
    """Return how many texts were tokenised and those that got other ids."""
    corpus = read_json_lines(Path(request.corpus)) if request.corpus else ()
    compared, differing = 0, []
    for ref in chain(request.texts, map(ReferenceText.model_validate, corpus)):
        compared += 1
        if runner.tokenise(ref.text) != list(ref.ids):
            differing.append(ref.text)
    return compared, differing


def _check_ids(runner: Runner, rows: Sequence[TokenisedRow], name: str) -> None:
    """Refuse a vocabulary that is smaller than the ids the student was trained on."""
    largest = max(max(row.input_ids) for row in rows)
    if largest >= runner.n_vocab:
        raise refused(name, f"token id {largest} >= its vocabulary of {runner.n_vocab}")


def _held_out_loss(runner: Runner, rows: Sequence[TokenisedRow], name: str, on_event: OnEvent) -> float:
    """Return the mean cross-entropy over all completion tokens, in nats; the same sum as core/train/held_out/worker.py."""
    total, tokens = 0.0, 0
    for done, row in enumerate(rows, 1):
        scored = [i for i in range(1, len(row.input_ids)) if row.completion_mask[i]]
        logits = runner.decode(row.input_ids, 0, [i - 1 for i in scored])
        total += sum(surprise(at, row.input_ids[i]) for at, i in zip(logits, scored, strict=True))
        tokens += len(scored)
        on_event(Progress(stage=Stage.EXPORT, task=f"held-out loss, {name}", done=done, total=len(rows), unit="rows"))
    return total / tokens


def _split(runner: Runner, answer: GreedyAnswer) -> float | None:
    """Return the reference's margin where the file's best token is first another, None where it never is."""
    ids = [*answer.prompt, *answer.ids[:-1]]
    logits = runner.decode(ids, 0, range(len(answer.prompt) - 1, len(ids)))
    found = (
        margin for at, token, margin in zip(logits, answer.ids, answer.margins, strict=True) if int(at.argmax()) != token
    )
    return next(found, None)


def _answer(runner: Runner, row: TokenisedRow, limit: int) -> str:
    """Return a greedy answer to the row's prompt."""
    prompt = list(row.input_ids[: row.completion_mask.index(1)])
    answer: list[int] = []
    logits = runner.decode(prompt, 0, [len(prompt) - 1])[0]
    while len(answer) < limit and not runner.ends(token := int(logits.argmax())):
        answer.append(token)
        logits = runner.decode([token], len(prompt) + len(answer) - 1, [0])[0]
    return runner.text(answer).strip()


if __name__ == "__main__":
    main(TrialRequest, work)
