"""A process that answers prompts with a Hugging Face model until its pipe ends; transformers_teacher.py is its client.

A row's numbers depend on the shape of what is computed, not on what lies beside it: matrix kernels sum in an order that the
shape fixes. So a batch always has the same number of rows (the last is repeated where there are fewer), and a prompt is
padded to a length that only its own decides. Its text is then the same beside any neighbours and at any place in the batch,
as the number of rows is a power of two and one-token queries take the plain kernel.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from jinja2 import TemplateError
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils.logging import disable_progress_bar

from core.contract import Contract
from core.errors import EdgekilnError, TeacherFailed
from core.label.batching import padded
from core.label.grammar import Grammar, Grammars
from core.label.request import Reply, Request, TokenLogprob
from core.label.teachers import Trouble
from core.label.tool_calls import unseen_tools
from core.label.transformers_teacher import Answers, Lengths, Question, Ready, Refusal, Start
from core.start import imported
from core.worker_process import die_with_parent

_REASON_CHARS = 300


class _UnaskableError(Exception):
    """Why a prompt cannot be given to the model, with its reject code."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code


class _Row:
    """One request while it is decoded."""

    def __init__(self, request: Request, prompt: list[int], limit: int, grammar: Grammar | None) -> None:
        self.request = request
        self.prompt = prompt
        self.tokens: list[int] = []
        self.chances: list[tuple[float, list[tuple[int, float]]]] = []
        self.finish: str | None = None
        self.trouble: Trouble | None = None
        self.seconds = 0.0
        self.limit = limit
        self._grammar = grammar
        self._started = time.perf_counter()
        # one for each row, so that no other row's draws move it; samples of a prompt differ though its seed is one
        self._generator = torch.Generator().manual_seed(request.seed + request.sample)

    def go_on(self, logits: torch.Tensor, best: int, ends: frozenset[int]) -> int:
        """Choose the next token by the logits, of which `best` is the highest."""
        token = self._chosen(logits, best)
        if token in ends:
            self._end("stop")
        elif self.trouble is None:
            self._keep(token, logits)
        return token

    def _chosen(self, logits: torch.Tensor, best: int) -> int:
        temperature = self.request.temperature
        if self._grammar is None and not temperature:
            return best
        allowed = logits
        if self._grammar is not None:
            mask = torch.frombuffer(bytearray(self._grammar.allowed()), dtype=torch.uint8)[: len(logits)] == 0
            if self._stuck():
                return best
            allowed = logits.masked_fill(mask.to(logits.device), -torch.inf)
        if not temperature:
            return int(allowed.argmax())
        chances = torch.softmax(allowed.double().cpu() / temperature, dim=-1)
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def _keep(self, token: int, logits: torch.Tensor) -> None:
        self.tokens.append(token)
        if self.request.top_logprobs:
            self.chances.append(_chances(token, logits, self.request.top_logprobs))
        if self._grammar is not None and self._grammar.accept(token):
            self._end("stop")
        elif not self._stuck() and len(self.tokens) >= self.limit:
            self._end("length")

    def _stuck(self) -> bool:
        fault = self._grammar.fault() if self._grammar is not None else None
        if fault:
            reason = f"the row's tool_schema cannot be kept to: {fault}"
            self.trouble = Trouble(reason=reason, retryable=False, code="bad-schema")
            self._end("error")
        return fault is not None

    def _end(self, finish: str) -> None:
        self.finish = finish
        self.seconds = time.perf_counter() - self._started


def _chances(token: int, logits: torch.Tensor, count: int) -> tuple[float, list[tuple[int, float]]]:
    """Return a token's natural log-probability and the likeliest tokens with theirs."""
    chances = torch.log_softmax(logits.double(), dim=-1)
    top = chances.topk(min(count, len(chances)))
    return float(chances[token]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))


class _Chooser(LogitsProcessor):  # type: ignore[misc]  # transformers carries no types
    """Lets each row choose its token and leaves only that one to `generate`, whose own sampling draws for all rows at once."""

    def __init__(self, rows: Sequence[_Row], ends: frozenset[int], steps: ExitStack) -> None:
        self._rows = rows
        self._ends = ends
        self._steps = steps
        self._begun = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores with the chosen token above all others."""
        if not self._begun and scores.device.type == "cpu":
            # torch's flash kernel for the CPU gives a row another last bit in another thread when the query is one token
            self._steps.enter_context(sdpa_kernel(SDPBackend.MATH))
        self._begun = True
        del input_ids
        highest = scores[: len(self._rows)].max(dim=-1)
        if highest.values.isnan().any():
            raise TeacherFailed(
                f"the teacher's logits are no numbers in {scores.dtype} after {len(self._rows[0].tokens)} tokens",
                remedy="Its weights are broken, or overflow on this GPU: take another model, or one with bfloat16.",
            )
        for index, (row, best) in enumerate(zip(self._rows, highest.indices.tolist(), strict=True)):
            if row.finish is None and (token := row.go_on(scores[index], best, self._ends)) != best:
                scores[index] = -torch.inf
                scores[index, token] = 0.0
        return scores


class _Ended(StoppingCriteria):  # type: ignore[misc]  # transformers carries no types
    """Tells which rows have ended; those that only fill the batch have from the start."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return True for each ended row."""
        del scores
        ended = [row.finish is not None for row in self._rows]
        return torch.tensor([*ended, *[True] * (len(input_ids) - len(ended))], device=input_ids.device)


class _Host:
    """A loaded model with its tokenizer."""

    def __init__(self, start: Start) -> None:
        self._tokenizer = _tokenizer(start.folder)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = _model(start, self._device)
        self._context = _context(self._model.config, self._tokenizer)
        self._ends = _ends(self._model.generation_config, self._tokenizer)
        self._pad = self._tokenizer.pad_token_id or 0
        # what a repository recommends (penalties, top-k) is no part of a request
        self._model.generation_config = GenerationConfig()
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        self._grammars = Grammars(self._tokenizer, vocabulary, sorted(self._ends))
        self._rows = start.rows
        self._fitting: dict[int, int] = {}

    @property
    def where(self) -> str:
        """Where the model lies and what it computes in."""
        return f"{self._device} in {str(self._model.dtype).removeprefix('torch.')}"

    def lengths(self, requests: Sequence[Request]) -> Lengths:
        """Return each prompt's padded length, or why it cannot be asked."""
        return Lengths(lengths=tuple(map(self._length, requests)))

    def _length(self, request: Request) -> int | Trouble:
        try:
            return padded(len(self._prompt(request)))
        except _UnaskableError as error:
            return Trouble(reason=str(error), retryable=False, code=error.code)

    def answers(self, requests: Sequence[Request]) -> Answers:
        """Answer prompts of one padded length. Where memory does not suffice a batch is halved, down to one row."""
        todo, outcomes, notes = list(requests), list[Reply | Trouble](), list[str]()
        length = padded(len(self._asked(todo[0]).prompt))
        while todo:
            width = self._fitting.get(length, self._rows)
            rows = [self._asked(request) for request in todo[:width]]
            if self._decoded(rows, width, length):
                outcomes += map(self._outcome, rows)
            elif width > 1:
                self._fitting[length] = width // 2
                notes.append(
                    f"out of memory with {width} prompts of {length} tokens: {width // 2} are decoded at once from here on"
                    " (other rounding, so a text may differ where the two best tokens are level)"
                )
                continue
            else:
                reason = f"out of memory: {len(rows[0].prompt)} tokens with up to {rows[0].limit} more, alone"
                outcomes.append(Trouble(reason=reason, retryable=False))
            del todo[: len(rows)]
        return Answers(outcomes=tuple(outcomes), notes=tuple(notes))

    def _prompt(self, request: Request) -> list[int]:
        text = self._rendered(request, request.tools)
        if request.tools and text == self._rendered(request, ()):
            unseen = unseen_tools()
            raise _UnaskableError(unseen.reason, unseen.code)
        # the template writes the special tokens itself
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) >= self._context:
            raise _UnaskableError(
                f"the prompt is too long: {len(ids)} tokens >= {self._context}, the teacher's context window",
                "teacher-context",
            )
        return ids

    def _rendered(self, request: Request, tools: Sequence[dict[str, Any]]) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                [message.for_template() for message in request.messages],
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        except (TemplateError, TypeError, ValueError) as error:
            reason = f"the chat template refuses the prompt: {error}"[:_REASON_CHARS]
            raise _UnaskableError(reason, "teacher-refused") from error
        return text

    def _asked(self, request: Request) -> _Row:
        prompt = self._prompt(request)
        grammar = self._grammars.of(request.answer_schema) if request.answer_schema is not None else None
        return _Row(request, prompt, min(request.max_tokens, self._context - len(prompt)), grammar)

    def _decoded(self, rows: Sequence[_Row], width: int, length: int) -> bool:
        """Decode a batch to its end; False when there was not memory enough."""
        try:
            self._decode(rows, width, length)
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
                raise
        else:
            return True
        clear_device_cache(garbage_collection=True)  # outside the handler, which holds the frames and so the tensors
        return False

    @torch.inference_mode()
    def _decode(self, rows: Sequence[_Row], width: int, length: int) -> None:
        ids = torch.full((width, length), self._pad)
        mask = torch.zeros((width, length), dtype=torch.long)
        for index in range(width):
            prompt = rows[min(index, len(rows) - 1)].prompt
            ids[index, length - len(prompt) :] = torch.tensor(prompt)
            mask[index, length - len(prompt) :] = 1
        settings = GenerationConfig(max_new_tokens=max(row.limit for row in rows), do_sample=False, pad_token_id=self._pad)
        with ExitStack() as steps:
            self._model.generate(
                ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([_Chooser(rows, self._ends, steps)]),
                stopping_criteria=StoppingCriteriaList([_Ended(rows)]),
            )

    def _outcome(self, row: _Row) -> Reply | Trouble:
        if row.trouble is not None:
            return row.trouble
        return Reply(
            text=self._text(row.tokens),
            finish_reason=row.finish or "length",
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.tokens),
            latency_ms=row.seconds * 1000,
            logprobs=tuple(self._logprobs(row)),
        )

    def _logprobs(self, row: _Row) -> Iterator[TokenLogprob]:
        for token, (chance, top) in zip(row.tokens[: len(row.chances)], row.chances, strict=True):
            yield TokenLogprob(
                token=token,
                text=self._text([token]),
                logprob=chance,
                top=tuple((other, self._text([other]), logprob) for other, logprob in top),
            )

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _tokenizer(folder: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.chat_template:
        raise _unusable(folder, "it holds no chat template")
    return tokenizer


def _model(start: Start, device: str) -> Any:
    dtype = torch.float32
    if device == "cuda":
        # below capability 8.0 torch emulates bf16, several times slower than the fp16 these GPUs have
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    quantisation = None
    if start.quantisation != "none":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=start.quantisation, bnb_4bit_compute_dtype=dtype
        )
    model, told = AutoModelForCausalLM.from_pretrained(
        start.folder, dtype=dtype, quantization_config=quantisation, device_map={"": device}, output_loading_info=True
    )
    if wrong := sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]])):
        raise _unusable(start.folder, f"weight {wrong[0]} is missing or has another shape ({len(wrong)} such)")
    return model.eval()


def _context(config: Any, tokenizer: Any) -> int:
    """Return how many tokens the model was made for."""
    told = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(told or tokenizer.model_max_length)


def _ends(config: Any, tokenizer: Any) -> frozenset[int]:
    told = config.eos_token_id
    ends = [told] if isinstance(told, int) else list(told or ())
    return frozenset([*ends, *([tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else ())])


def _unusable(folder: str, why: str) -> TeacherFailed:
    return TeacherFailed(
        f"the teacher {folder} cannot be used: {why}",
        remedy="Name an instruct model's Hugging Face repository or folder as label.teacher.",
    )


def main() -> None:
    """Answer what comes through the first pipe through the second."""
    die_with_parent()
    imported()
    disable_progress_bar()
    with os.fdopen(int(sys.argv[1]), "rb") as questions, os.fdopen(int(sys.argv[2]), "wb") as answers:
        try:
            host = _Host(Start.model_validate_json(questions.readline()))
            _tell(answers, Ready(where=host.where))
            for line in questions:
                question = Question.model_validate_json(line)
                _tell(answers, (host.lengths if question.wants == "lengths" else host.answers)(question.requests))
        except EdgekilnError as error:
            _tell(answers, Refusal(error=type(error).__name__, problem=error.problem, remedy=error.remedy))


def _tell(answers: BinaryIO, message: Contract) -> None:
    answers.write(message.model_dump_json().encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
