"""Runs a GGUF file with llama.cpp: held-out loss on given token ids, a greedy answer, the tokenizer's ids."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core import toolchain
from core.contract import Stage
from core.data.record import TokenisedRow
from core.env.host import affinity
from core.errors import GateRefused
from core.events import OnEvent, Progress
from core.export.gguf_loss.loss import Trial, TrialRequest
from core.export.merge import GreedyAnswer
from core.worker_process import main

Logits = npt.NDArray[np.float64]

# as the reference ids are made: nothing added, special tokens in the text are special
_ADD_SPECIAL, _PARSE_SPECIAL, _WITH_DATA = False, True, True
_RENDER_SPECIAL = False


class _Runner:
    """One loaded model with a context that holds the longest row."""

    def __init__(self, gguf: Path, n_ctx: int) -> None:
        import llama_cpp

        self._c = llama_cpp
        self._name = gguf.name
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.check_tensors = True
        self._model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
        if not self._model:
            raise _refused(self._name, "llama.cpp cannot load it")
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self._ctx = llama_cpp.llama_init_from_model(self._model, self._context_params(n_ctx))
        if not self._ctx:
            raise _refused(self._name, f"llama.cpp cannot open a context of {n_ctx} tokens")
        self._batch = llama_cpp.llama_batch_init(n_ctx, 0, 1)

    def _context_params(self, n_ctx: int) -> Any:
        params = self._c.llama_context_default_params()
        params.n_ctx = params.n_batch = n_ctx
        params.n_threads = params.n_threads_batch = affinity()
        # f32 cache, no flash attention (it rounds: 1e-3 nats on SmolLM2, 1e-6 without): the loss shows what the weights lost
        params.type_k = params.type_v = self._c.GGML_TYPE_F32
        params.flash_attn_type = self._c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params

    def decode(self, ids: Sequence[int], start: int, wanted: Sequence[int]) -> list[Logits]:
        """Run ids at positions from `start` and return the logits at the wanted indices of `ids`."""
        keep = set(wanted)
        if start == 0:
            self._c.llama_memory_clear(self._c.llama_get_memory(self._ctx), _WITH_DATA)
        self._batch.n_tokens = len(ids)
        for index, token in enumerate(ids):
            self._batch.token[index] = token
            self._batch.pos[index] = start + index
            self._batch.n_seq_id[index] = 1
            self._batch.seq_id[index][0] = 0
            self._batch.logits[index] = index in keep
        if (status := self._c.llama_decode(self._ctx, self._batch)) != 0:
            raise _refused(self._name, f"llama_decode gave status {status} on {len(ids)} tokens")
        return [self._logits(index) for index in wanted]

    def _logits(self, index: int) -> Logits:
        pointer = self._c.llama_get_logits_ith(self._ctx, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).astype(np.float64)

    def ends(self, token: int) -> bool:
        return bool(self._c.llama_vocab_is_eog(self._vocab, token))

    def tokenise(self, text: str) -> list[int]:
        data = text.encode()
        room = len(data) + 16
        tokens = (self._c.llama_token * room)()
        count = self._c.llama_tokenize(self._vocab, data, len(data), tokens, room, _ADD_SPECIAL, _PARSE_SPECIAL)
        if count < 0:
            raise _refused(self._name, f"its tokenizer needs {-count} tokens for {len(data)} bytes")
        return list(tokens[:count])

    def text(self, ids: Sequence[int]) -> str:
        pieces = b"".join(self._piece(token) for token in ids)
        return pieces.decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        count = self._c.llama_token_to_piece(self._vocab, token, buffer, 256, 0, _RENDER_SPECIAL)
        return buffer.raw[: max(0, count)]


def _refused(name: str, why: str) -> GateRefused:
    return GateRefused(f"{name}: {why}", remedy="Read the worker.log beside it; export again from a sound adapter.")


def work(request: TrialRequest, _folder: Path, on_event: OnEvent) -> Trial:
    """Measure one file."""
    toolchain.use_libraries(request.toolchain)
    gguf = Path(request.gguf)
    longest = max(len(row.input_ids) for row in request.rows)
    answers = max((len(answer.ids) for answer in request.greedy), default=0)
    runner = _Runner(gguf, longest + max(request.answer_tokens, answers))
    _check_ids(runner, request.rows, gguf.name)
    differing = [ref.text for ref in request.texts if runner.tokenise(ref.text) != list(ref.ids)]
    loss = _held_out_loss(runner, request.rows, gguf.name, on_event)
    return Trial(
        held_out_loss=loss if np.isfinite(loss) else None,
        sample=_answer(runner, request.rows[0], request.answer_tokens),
        texts=len(request.texts),
        tokenizer_mismatches=len(differing),
        first_mismatch=differing[0][:80] if differing else None,
        splits=tuple(margin for answer in request.greedy if (margin := _split(runner, answer)) is not None),
    )


def _check_ids(runner: _Runner, rows: Sequence[TokenisedRow], name: str) -> None:
    """Refuse a vocabulary that is smaller than the ids the student was trained on."""
    largest = max(max(row.input_ids) for row in rows)
    if largest >= runner.n_vocab:
        raise _refused(name, f"token id {largest} >= its vocabulary of {runner.n_vocab}")


def _held_out_loss(runner: _Runner, rows: Sequence[TokenisedRow], name: str, on_event: OnEvent) -> float:
    """Return the mean cross-entropy over all completion tokens, in nats; the same sum as core/export/worker.py."""
    total, tokens = 0.0, 0
    for done, row in enumerate(rows, 1):
        scored = [i for i in range(1, len(row.input_ids)) if row.completion_mask[i]]
        logits = runner.decode(row.input_ids, 0, [i - 1 for i in scored])
        total += sum(_surprise(at, row.input_ids[i]) for at, i in zip(logits, scored, strict=True))
        tokens += len(scored)
        on_event(Progress(stage=Stage.EXPORT, task=f"held-out loss, {name}", done=done, total=len(rows), unit="rows"))
    return total / tokens


def _surprise(logits: Logits, token: int) -> float:
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()) - logits[token])


def _split(runner: _Runner, answer: GreedyAnswer) -> float | None:
    """Return the reference's margin where the file's best token is first another, None where it never is."""
    ids = [*answer.prompt, *answer.ids[:-1]]
    logits = runner.decode(ids, 0, range(len(answer.prompt) - 1, len(ids)))
    found = (
        margin for at, token, margin in zip(logits, answer.ids, answer.margins, strict=True) if int(at.argmax()) != token
    )
    return next(found, None)


def _answer(runner: _Runner, row: TokenisedRow, limit: int) -> str:
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
