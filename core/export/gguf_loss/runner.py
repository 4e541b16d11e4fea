"""A GGUF file loaded by llama.cpp with an F32 cache: logits, the tokenizer's ids, texts. Runs in a worker's process."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.env.host import affinity
from core.errors import GateRefused

Logits = npt.NDArray[np.float64]

# as the reference ids are made: nothing added, special tokens in the text are special
_ADD_SPECIAL, _PARSE_SPECIAL, _WITH_DATA = False, True, True
_RENDER_SPECIAL = False


def load(gguf: Path, *, vocabulary_only: bool = False) -> Any:
    """Return llama.cpp's pointer to a loaded model, its tensors checked; GateRefused when it cannot be loaded."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.check_tensors = True
    params.vocab_only = vocabulary_only
    if not (model := llama_cpp.llama_model_load_from_file(str(gguf).encode(), params)):
        raise refused(gguf.name, "llama.cpp cannot load it")
    return model


class Vocabulary:
    """The tokenizer of a GGUF file."""

    def __init__(self, name: str, model: Any) -> None:
        import llama_cpp

        self._c = llama_cpp
        self._name = name
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    def ends(self, token: int) -> bool:
        """Say whether a token ends an answer."""
        return bool(self._c.llama_vocab_is_eog(self._vocab, token))

    def tokenise(self, text: str) -> list[int]:
        """Return a text's ids, special tokens in it as such, none added."""
        data = text.encode()
        room = len(data) + 16
        tokens = (self._c.llama_token * room)()
        count = self._c.llama_tokenize(self._vocab, data, len(data), tokens, room, _ADD_SPECIAL, _PARSE_SPECIAL)
        if count < 0:
            raise refused(self._name, f"its tokenizer needs {-count} tokens for {len(data)} bytes")
        return list(tokens[:count])

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ids without special tokens."""
        pieces = b"".join(self._piece(token) for token in ids)
        return pieces.decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        buffer = ctypes.create_string_buffer(256)
        count = self._c.llama_token_to_piece(self._vocab, token, buffer, 256, 0, _RENDER_SPECIAL)
        return buffer.raw[: max(0, count)]


class Runner(Vocabulary):
    """One loaded model, with an adapter where there is one, and a context that holds the longest row."""

    def __init__(self, gguf: Path, n_ctx: int, adapter: Path | None = None) -> None:
        self._model = load(gguf)
        super().__init__(gguf.name, self._model)
        self._ctx = self._c.llama_init_from_model(self._model, self._context_params(n_ctx))
        if not self._ctx:
            raise refused(self._name, f"llama.cpp cannot open a context of {n_ctx} tokens")
        if adapter is not None:
            self._add(adapter)
        self._batch = self._c.llama_batch_init(n_ctx, 0, 1)

    def _add(self, adapter: Path) -> None:
        loaded = self._c.llama_adapter_lora_init(self._model, str(adapter).encode())
        if not loaded:
            raise refused(adapter.name, f"llama.cpp cannot load it as an adapter of {self._name}")
        adapters, scales = (self._c.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1.0)
        if (status := self._c.llama_set_adapters_lora(self._ctx, adapters, 1, scales)) != 0:
            raise refused(adapter.name, f"llama_set_adapters_lora gave status {status}")

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
            raise refused(self._name, f"llama_decode gave status {status} on {len(ids)} tokens")
        return [self._logits(index) for index in wanted]

    def _logits(self, index: int) -> Logits:
        pointer = self._c.llama_get_logits_ith(self._ctx, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).astype(np.float64)


def surprise(logits: Logits, token: int) -> float:
    """Return a token's cross-entropy in nats."""
    top = logits.max()
    return float(top + np.log(np.exp(logits - top).sum()) - logits[token])


def refused(name: str, why: str) -> GateRefused:
    """Return the error of a file that does not run."""
    return GateRefused(f"{name}: {why}", remedy="Read the worker.log beside it; export again from a sound adapter.")
