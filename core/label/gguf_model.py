"""A GGUF file that llama.cpp has loaded: its weights, its tokens, its chat template. Decoding is in batched_decoding.py."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from core import toolchain
from core.config import patient_openmp
from core.errors import TeacherFailed, ToolMissing
from core.events import OnEvent
from core.label.request import Request

_TEMPLATE_KEY = "tokenizer.chat_template"
_EVERY_LAYER = 0x7FFFFFFF
_PIECE_BYTES = 256
_MARK = "\ue000"  # of the private use area: no template looks for it or trims it
# the template writes its own special tokens; none are shown in an answer
_ADD_SPECIAL, _PARSE_SPECIAL, _SHOW_SPECIAL = False, True, False


class Refused(Exception):
    """A chat template that cannot render some messages says why."""


class GgufModel:
    """A loaded model; `library` is llama_cpp, `handle` and `vocab` are its pointers."""

    def __init__(self, library: Any, handle: Any, template: str) -> None:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        self.library = library
        self.handle = handle
        self.vocab = library.llama_model_get_vocab(handle)
        self.n_vocab = int(library.llama_vocab_n_tokens(self.vocab))
        self.trained_context = int(library.llama_model_n_ctx_train(handle))
        end = int(library.llama_vocab_eos(self.vocab))
        self._pieces: dict[int, bytes] = {}
        self._format = Jinja2ChatFormatter(
            template=template,
            eos_token=self._word(end),
            bos_token=self._word(int(library.llama_vocab_bos(self.vocab))),
            stop_token_ids=[end],
        )

    def render(self, request: Request) -> tuple[str, tuple[bytes, ...]]:
        """Return a request's prompt as the chat template writes it, and the texts that end its answer; Refused."""
        return self._rendered([message.for_template() for message in request.messages], request)

    def _rendered(self, messages: list[dict[str, Any]], request: Request) -> tuple[str, tuple[bytes, ...]]:
        import jinja2

        try:
            done = self._format(messages=messages, tools=list(request.tools) or None)
            return done.prompt, tuple(text.encode() for text in done.stop or () if text)
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            raise Refused(" ".join(str(error).split())) from error

    def shared_tokens(self, request: Request, prompt: str, tokens: Sequence[int]) -> int:
        """Return how many tokens of a prompt come before its first message that is not the system's.

        It is told from the request alone, never from other requests, so that a prompt is always evaluated in the same parts.
        """
        messages = [message.for_template() for message in request.messages]
        first = next((message for message in messages if message["role"] != "system"), None)
        if first is None:
            return 0
        first["content"] = _MARK
        head = self._rendered(messages, request)[0].partition(_MARK)[0]
        if not prompt.startswith(head):
            return 0
        pairs = zip(self.tokenise(head), tokens[:-1], strict=False)  # one token stays to be evaluated
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def tokenise(self, text: str) -> list[int]:
        """Return a text's tokens; Refused for one that is no Unicode."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise Refused(str(error)) from error
        room = len(data) + 16
        tokens = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self.vocab, data, len(data), tokens, room, _ADD_SPECIAL, _PARSE_SPECIAL)
        if count < 0:
            raise Refused(f"its tokenizer makes {-count} tokens of {len(data)} bytes")
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """Return the bytes a token adds to an answer."""
        if token not in self._pieces:
            self._pieces[token] = self._piece(token, _PIECE_BYTES)
        return self._pieces[token]

    def _piece(self, token: int, room: int) -> bytes:
        buffer = ctypes.create_string_buffer(room)
        count = self.library.llama_token_to_piece(self.vocab, token, buffer, room, 0, _SHOW_SPECIAL)
        return self._piece(token, -count) if count < 0 else buffer.raw[:count]

    def ends(self, token: int) -> bool:
        """Say whether a token ends the generation."""
        return bool(self.library.llama_vocab_is_eog(self.vocab, token))

    def _word(self, token: int) -> str:
        return self.library.llama_vocab_get_text(self.vocab, token).decode() if token >= 0 else ""

    def close(self) -> None:
        """Free the model; whatever was opened on it must be closed before."""
        if self.handle is not None:
            self.library.llama_model_free(self.handle)
            self.handle = None


def load(gguf: Path, on_event: OnEvent) -> GgufModel:
    """Load a GGUF file; TeacherFailed when llama.cpp cannot read it or it holds no chat template."""
    toolchain.use_libraries(toolchain.ensure(on_event))
    try:
        with patient_openmp():
            import llama_cpp
            from llama_cpp import _logger
    except ImportError as error:
        raise ToolMissing("llama-cpp-python is not installed", remedy="pip install 'edgekiln[teacher]'") from error
    _logger.set_verbose(False)
    llama_cpp.llama_log_set(_logger.llama_log_callback, None)  # says why a file cannot be loaded
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = _EVERY_LAYER
    handle = llama_cpp.llama_model_load_from_file(str(gguf).encode(), params) if gguf.is_file() else None
    if not handle:
        raise unusable(gguf, "llama.cpp cannot load it")
    _hush(llama_cpp)
    template = _metadata(llama_cpp, handle, _TEMPLATE_KEY)
    if template is None:
        llama_cpp.llama_model_free(handle)
        raise unusable(gguf, "it holds no chat template")
    return GgufModel(llama_cpp, handle, template)


def _hush(library: Any) -> None:
    """Have llama.cpp log to a C function from here on: a Ctrl-C that comes while a Python callback runs is lost.

    It is one without parameters or effects; in C, arguments that nobody reads do no harm.
    """
    library.llama_log_set(ctypes.cast(library.llama_supports_mmap, library.llama_log_callback), None)


def _metadata(library: Any, handle: Any, key: str) -> str | None:
    length = library.llama_model_meta_val_str(handle, key.encode(), None, 0)
    if length < 0:
        return None
    value = ctypes.create_string_buffer(length + 1)
    library.llama_model_meta_val_str(handle, key.encode(), value, len(value))
    return value.value.decode(errors="replace")


def unusable(gguf: Path, why: str) -> TeacherFailed:
    """Return the error for a file that cannot be a teacher."""
    return TeacherFailed(
        f"the teacher {gguf} cannot be used: {why}", remedy="Name an instruct model's GGUF as label.teacher."
    )
