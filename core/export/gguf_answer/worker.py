"""Loads a GGUF file by llama-cpp-python and lets it answer; answer.py is its client."""

from __future__ import annotations

from pathlib import Path

from core import toolchain
from core.errors import GateRefused
from core.events import OnEvent
from core.export.gguf_answer.answer import Answer, AnswerRequest
from core.worker_process import main


def work(request: AnswerRequest, _folder: Path, _on_event: OnEvent) -> Answer:
    """Load and answer."""
    toolchain.use_libraries(request.toolchain)
    from llama_cpp import Llama

    try:
        model = Llama(request.gguf, n_ctx=512, verbose=False)
    except ValueError as error:
        raise GateRefused(
            f"{Path(request.gguf).name} cannot be loaded: {error}", remedy="Nothing was promoted; export again."
        ) from error
    messages = [{"role": "user", "content": request.question}]
    given = model.create_chat_completion(messages, temperature=0.0, max_tokens=request.max_tokens)
    return Answer(text=str(given["choices"][0]["message"]["content"] or "").strip())


if __name__ == "__main__":
    main(AnswerRequest, work)
