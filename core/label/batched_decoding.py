"""Answers several prompts at once with llama.cpp, each with the very tokens it would get alone.

What stands beside a prompt must not change its answer, as a labelling that was killed asks only what is missing and has to
end in the same files. So a sequence has a part of the cache to itself (cells in the order of its tokens), a prompt is
evaluated alone in parts that follow from it alone, and every step decodes the same number of sequences: those without a
prompt decode a filler. Kernels, their shapes and the order of every sum are then the same whoever is there; cells beyond a
sequence's own end are masked and add zeros.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from core.errors import TeacherFailed
from core.label.gguf_model import GgufModel
from core.label.request import Reply, Request, TokenLogprob
from core.label.teachers import Trouble
from core.label.token_choice import Logits, TokenChoice, logprobs

_CHUNK = 64  # tokens of a prompt evaluated in one call, for which Ctrl-C waits: 1.6 s at 40 tokens a second
_LEAST_SHARED = 16  # tokens; evaluating fewer costs less than copying them
_FILLER = 0  # the token of a sequence without a prompt

Outcome = Reply | Trouble


@dataclass(frozen=True)
class Prompt:
    """A request as tokens; the first `shared` of them it has in common with others, `stops` end its answer."""

    request: Request
    tokens: Sequence[int]
    shared: int
    stops: tuple[bytes, ...]
    began_s: float


@dataclass
class _Answer:
    prompt: Prompt
    choice: TokenChoice
    limit: int
    tokens: list[int] = field(default_factory=list)
    text: bytearray = field(default_factory=bytearray)
    logprobs: list[TokenLogprob] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Where its newest token goes."""
        return len(self.prompt.tokens) + len(self.tokens) - 1

    def stopped(self) -> bool:
        """Cut the text at a stop text that has come up, and say whether one has."""
        found = [at for stop in self.prompt.stops if (at := self.text.find(stop)) >= 0]
        if found:
            del self.text[min(found) :]
        return bool(found)

    def reply(self, finish_reason: str) -> Reply:
        return Reply(
            text=self.text.decode(errors="ignore"),
            finish_reason=finish_reason,
            prompt_tokens=len(self.prompt.tokens),
            completion_tokens=len(self.tokens),
            latency_ms=(time.perf_counter() - self.prompt.began_s) * 1000,
            logprobs=tuple(self.logprobs),
        )


class BatchedDecoder:
    """So many sequences of `context` tokens that decode together; beside several, one that holds what their prompts share."""

    def __init__(self, model: GgufModel, sequences: int, context: int, threads: int) -> None:
        self.context = context
        self._model = model
        self._library = model.library
        self._answers: list[_Answer | None] = [None] * sequences
        self._shared: tuple[int, ...] = ()
        self._shared_sequence = sequences if sequences > 1 else None
        self._handle = self._library.llama_init_from_model(model.handle, self._params(sequences, threads))
        if not self._handle:
            raise TeacherFailed(
                f"llama.cpp cannot open a context for {sequences} x {context} tokens",
                remedy="Free some memory, or name a smaller model as label.teacher.",
            )
        self._memory = self._library.llama_get_memory(self._handle)
        self._batch = self._library.llama_batch_init(max(_CHUNK, sequences), 0, 1)

    def _params(self, sequences: int, threads: int) -> Any:
        params = self._library.llama_context_default_params()
        params.n_seq_max = sequences if self._shared_sequence is None else sequences + 1
        params.n_ctx = self.context * params.n_seq_max
        params.n_batch = params.n_ubatch = max(_CHUNK, sequences)
        params.n_outputs_max = params.n_seq_max
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False
        # flash attention on the CPU cuts the cache by its filled length, which is that of the longest sequence
        params.flash_attn_type = self._library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return params

    @property
    def free(self) -> bool:
        """Whether there is room for one more prompt."""
        return None in self._answers

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return any(self._answers)

    def begin(self, prompt: Prompt) -> Outcome | None:
        """Evaluate a prompt of < `context` tokens in a free sequence; its outcome if the first token is the last."""
        place = self._answers.index(None)
        start = self._begin_with_what_is_shared(place, prompt)
        index = self._evaluate(place, prompt.tokens, start)
        limit = min(prompt.request.max_tokens, self.context - len(prompt.tokens))
        answer = self._answers[place] = _Answer(prompt, TokenChoice(self._model, prompt.request), limit)
        return self._go_on(place, answer, index)

    def step(self) -> list[tuple[Request, Outcome]]:
        """Decode one token of every answer under way and return those that ended with it."""
        for place, answer in enumerate(self._answers):
            if answer is None:
                self._forget(place)
                self._put(place, _FILLER, 0, place, wanted=True)
            else:
                self._put(place, answer.tokens[-1], answer.position, place, wanted=True)
        self._decode(len(self._answers))
        under_way = [(place, answer) for place, answer in enumerate(self._answers) if answer]
        outcomes = [(answer.prompt.request, self._go_on(place, answer, place)) for place, answer in under_way]
        return [(request, outcome) for request, outcome in outcomes if outcome]

    def _begin_with_what_is_shared(self, place: int, prompt: Prompt) -> int:
        """Put a prompt's shared beginning into a sequence, evaluated unless it was the last prompt's too, and return its length."""
        self._forget(place)
        shared = tuple(prompt.tokens[: prompt.shared])
        if self._shared_sequence is None or len(shared) < _LEAST_SHARED:
            return 0
        if shared != self._shared:
            self._shared = ()
            self._forget(self._shared_sequence)
            self._evaluate(self._shared_sequence, shared, 0)
            self._shared = shared
        self._library.llama_memory_seq_cp(self._memory, self._shared_sequence, place, -1, -1)
        return len(shared)

    def _evaluate(self, sequence: int, tokens: Sequence[int], start: int) -> int:
        """Evaluate tokens from `start` on and return the index in the last batch where the logits after them are."""
        index = 0
        for first in range(start, len(tokens), _CHUNK):
            chunk = tokens[first : first + _CHUNK]
            for index, token in enumerate(chunk):
                self._put(index, token, first + index, sequence, wanted=first + index == len(tokens) - 1)
            self._decode(len(chunk))
        return index

    def _put(self, index: int, token: int, position: int, sequence: int, *, wanted: bool) -> None:
        batch = self._batch
        batch.token[index] = token
        batch.pos[index] = position
        batch.n_seq_id[index] = 1
        batch.seq_id[index][0] = sequence
        batch.logits[index] = wanted

    def _decode(self, count: int) -> None:
        self._batch.n_tokens = count
        if (status := self._library.llama_decode(self._handle, self._batch)) != 0:
            raise TeacherFailed(
                f"llama_decode gave status {status} != 0 on {count} tokens",
                remedy="Free some memory, then run the same command again: only what is missing is asked.",
            )

    def _logits(self, index: int) -> Logits:
        pointer = self._library.llama_get_logits_ith(self._handle, index)
        return np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab,))

    def _go_on(self, place: int, answer: _Answer, index: int) -> Outcome | None:
        """Choose an answer's next token by the logits at a batch index; its outcome if that ends it."""
        outcome = self._outcome(answer, self._logits(index))
        if outcome is not None:
            answer.choice.close()
            self._answers[place] = None
        return outcome

    def _outcome(self, answer: _Answer, logits: Logits) -> Outcome | None:
        token = answer.choice.next(logits)
        if token is None:
            return Trouble(reason="no token goes on in the grammar of answer_schema", retryable=False, code="bad-schema")
        if self._model.ends(token):
            return answer.reply("stop")
        answer.choice.accept(token)
        answer.tokens.append(token)
        answer.text += self._model.piece(token)
        if top := answer.prompt.request.top_logprobs:
            answer.logprobs.append(logprobs(self._model, logits, token, top))
        if answer.stopped():
            return answer.reply("stop")
        return answer.reply("length") if len(answer.tokens) >= answer.limit else None

    def _forget(self, sequence: int) -> None:
        self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def clear(self) -> None:
        """Drop what is under way."""
        for place, answer in enumerate(self._answers):
            if answer is not None:
                answer.choice.close()
                self._answers[place] = None

    def close(self) -> None:
        """Free the context."""
        self.clear()
        if self._handle is not None:
            self._library.llama_batch_free(self._batch)
            self._library.llama_free(self._handle)
            self._handle = None
