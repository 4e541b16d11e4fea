"""The teacher in this process: a GGUF file through llama-cpp-python, on the toolchain's libraries, several prompts at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from core.env.host import affinity
from core.events import OnEvent
from core.label import gguf_model
from core.label.batched_decoding import BatchedDecoder, Outcome, Prompt
from core.label.gguf_model import GgufModel, Refused
from core.label.request import Reply, Request
from core.label.teachers import Trouble
from core.label.tool_calls import unseen_tools, with_calls_apart

# No field of the configuration, as kernels differ with it and answers would then: a multiple of the 4 and 8 columns that
# kernels take at once.
SEQUENCES = 8
_CONTEXT = 2048  # of each of them, in tokens; memory grows with it
CACHE_TOKENS = (SEQUENCES + 1) * _CONTEXT  # what is kept of them and of the beginning they share
# Room for the longest prompt of the data stage (8,000 characters) with its answer; more would cost memory for nothing.
_MAX_CONTEXT = 8192


class LlamaTeacher:
    """One loaded model. An answer depends on its request alone, not on those beside it nor on those before it."""

    concurrency = 1
    batches = True

    def __init__(self, model: GgufModel, sequences: int = SEQUENCES) -> None:
        self._model = model
        self._most = min(_MAX_CONTEXT, model.trained_context)
        self._together = BatchedDecoder(model, sequences, min(_CONTEXT, self._most), affinity())
        self._alone: BatchedDecoder | None = None

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply | Trouble]]:
        """Ask the model with its own chat template; a prompt that cannot be asked is a Trouble.

        Prompts decode together; one that may outgrow its sequence is answered alone, with more room.
        """
        drawn = iter(requests)
        try:
            while True:
                while self._together.free and (request := next(drawn, None)) is not None:
                    if (outcome := self._begin(request)) is not None:
                        yield request, with_calls_apart(request, outcome)
                if not self._together.busy:
                    return
                for request, outcome in self._together.step():
                    yield request, with_calls_apart(request, outcome)
        finally:
            self._together.clear()

    def _begin(self, request: Request) -> Outcome | None:
        prompt = self._prompt(request)
        if isinstance(prompt, Trouble):
            return prompt
        if len(prompt.tokens) + request.max_tokens > self._together.context < self._most:
            return self._answer_alone(prompt)
        return self._together.begin(prompt)

    def _prompt(self, request: Request) -> Prompt | Trouble:
        began_s = time.perf_counter()
        try:
            text, stops = self._model.render(request)
            tokens = self._model.tokenise(text)
            shared = self._model.shared_tokens(request, text, tokens)
            if request.tools and text == self._model.render(request.model_copy(update={"tools": ()}))[0]:
                return unseen_tools()
        except Refused as why:
            return Trouble(
                reason=f"the teacher's chat template refuses the messages: {why}", retryable=False, code="teacher-refused"
            )
        if not tokens:
            return Trouble(
                reason="the teacher's chat template makes nothing of the messages", retryable=False, code="teacher-refused"
            )
        if len(tokens) >= self._most:
            return Trouble(
                reason=f"the prompt is too long: {len(tokens)} tokens >= the context of {self._most}",
                retryable=False,
                code="teacher-context",
            )
        return Prompt(request, tokens, shared, stops, began_s)

    def _answer_alone(self, prompt: Prompt) -> Outcome:
        if self._alone is None:
            self._alone = BatchedDecoder(self._model, 1, self._most, affinity())
        try:
            if outcome := self._alone.begin(prompt):
                return outcome
            while not (ended := self._alone.step()):
                pass
            return ended[0][1]
        finally:
            self._alone.clear()

    def close(self) -> None:
        """Free the model and its contexts."""
        for decoder in (self._together, self._alone):
            if decoder is not None:
                decoder.close()
        self._model.close()


def load(gguf: Path, on_event: OnEvent) -> LlamaTeacher:
    """Load a GGUF file; TeacherFailed when llama.cpp cannot read it, it holds no chat template, or memory is short."""
    with ExitStack() as held:
        model = gguf_model.load(gguf, on_event)
        held.callback(model.close)
        teacher = LlamaTeacher(model)
        held.pop_all()
    return teacher
