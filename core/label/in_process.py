"""The teacher in this process: a GGUF file through llama-cpp-python, on the toolchain's libraries."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from core import toolchain
from core.config import patient_openmp
from core.errors import TeacherFailed, ToolMissing
from core.events import OnEvent
from core.label.request import Reply, Request
from core.label.teachers import Trouble

# Room for the longest prompt of the data stage (8,000 characters) with its answer; more would cost memory for nothing.
_MAX_CONTEXT = 8192
_LONGEST_VALUE_BYTES = 128


class LlamaTeacher:
    """One loaded model. Each request starts from an empty cache, so that its answer does not depend on the one before it."""

    concurrency = 1
    batches = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def answer(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Reply | Trouble]]:
        """Ask the model with its own chat template; a prompt too long for the context is a Trouble."""
        for request in requests:
            yield request, self._answer(request)

    def _answer(self, request: Request) -> Reply | Trouble:
        self._model.reset()
        started = time.perf_counter()
        try:
            done = self._model.create_chat_completion(
                messages=[message.for_template() for message in request.messages],
                tools=list(request.tools) or None,
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                seed=request.seed,
                repeat_penalty=1.0,
                response_format=_response_format(request),
            )
        except ValueError as error:
            if "context window" in str(error):
                return Trouble(reason=f"the prompt is too long: {error}", retryable=False, code="teacher-context")
            raise
        return _reply(done, (time.perf_counter() - started) * 1000)

    def close(self) -> None:
        """Free the model."""
        self._model.close()


def _response_format(request: Request) -> dict[str, Any] | None:
    return {"type": "json_object", "schema": request.answer_schema} if request.answer_schema is not None else None


def _reply(done: dict[str, Any], latency_ms: float) -> Reply:
    choice = done["choices"][0]
    return Reply(
        text=choice["message"]["content"] or "",
        finish_reason=choice["finish_reason"],
        prompt_tokens=done["usage"]["prompt_tokens"],
        completion_tokens=done["usage"]["completion_tokens"],
        latency_ms=latency_ms,
    )


def load(gguf: Path, on_event: OnEvent) -> LlamaTeacher:
    """Load a GGUF file; TeacherFailed when llama.cpp cannot read it or it holds no chat template."""
    toolchain.use_libraries(toolchain.ensure(on_event))
    try:
        with patient_openmp():
            import llama_cpp
    except ImportError as error:
        raise ToolMissing("llama-cpp-python is not installed", remedy="pip install 'edgekiln[teacher]'") from error
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        model = llama_cpp.Llama(
            str(gguf),
            n_ctx=min(_MAX_CONTEXT, _trained_context(llama_cpp, gguf)),
            n_threads=threads,
            n_threads_batch=threads,
            n_gpu_layers=-1,
            verbose=False,
        )
    except ValueError as error:
        raise _unreadable(gguf, str(error)) from error
    if "tokenizer.chat_template" not in model.metadata:
        model.close()
        raise _unreadable(gguf, "it holds no chat template")
    return LlamaTeacher(model)


def _trained_context(llama_cpp: Any, gguf: Path) -> int:
    """Return the context the model was trained with, in tokens; ValueError when the file cannot be read."""
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)
    if not model:
        raise ValueError("llama.cpp cannot load it")
    try:
        name = _metadata(llama_cpp, model, "general.architecture")
        return int(_metadata(llama_cpp, model, f"{name}.context_length") or _MAX_CONTEXT)
    finally:
        llama_cpp.llama_model_free(model)


def _metadata(llama_cpp: Any, model: Any, key: str) -> str:
    value = ctypes.create_string_buffer(_LONGEST_VALUE_BYTES)
    length = llama_cpp.llama_model_meta_val_str(model, key.encode(), value, len(value))
    return value.value.decode(errors="replace") if length >= 0 else ""


def _unreadable(gguf: Path, why: str) -> TeacherFailed:
    return TeacherFailed(
        f"the teacher {gguf} cannot be used: {why}", remedy="Name an instruct model's GGUF as label.teacher."
    )
