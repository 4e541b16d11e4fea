"""Which token comes next: greedy or drawn by a seed, held to a JSON Schema by llama.cpp's grammar; and how likely it was."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from core.label.gguf_model import GgufModel
from core.label.request import Request, TokenLogprob

Logits = npt.NDArray[np.float32]

# those of llama-cpp-python's chat completions, which llama.cpp's own programs share
_TOP_K, _TOP_P, _MIN_P, _MIN_KEEP = 40, 0.95, 0.05, 1
_RANDOM_SEED = 0xFFFFFFFF  # llama.cpp takes this one for "any"
_LONGEST_COUNT = 512  # larger counts in a schema are left to its validation: a grammar writes each repetition out
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_NESTED = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class TokenChoice:
    """Chooses the tokens of one answer."""

    def __init__(self, model: GgufModel, request: Request) -> None:
        self._model = model
        self._library = model.library
        self._grammar = _grammar(model, request.answer_schema) if request.answer_schema is not None else None
        self._draw = _drawing(model.library, request) if request.temperature > 0 else None

    def next(self, logits: Logits) -> int | None:
        """Return the next token, None where the grammar allows none."""
        best = int(logits.argmax())
        if self._draw is None and self._allows(best, logits):
            return best
        candidates = _candidates(np.arange(len(logits)), logits)
        if self._grammar is not None:
            self._apply(self._grammar, candidates)
        if not np.isfinite(candidates["logit"]).any():
            return None
        if self._draw is None:
            return int(candidates["id"][candidates["logit"].argmax()])
        return self._apply(self._draw, candidates)

    def accept(self, token: int) -> None:
        """Go on after a token that does not end the answer."""
        if self._grammar is not None:
            self._library.llama_sampler_accept(self._grammar, token)

    def _allows(self, token: int, logits: Logits) -> bool:
        """Say whether the grammar takes a token: one is asked for first, as judging all of them takes far longer."""
        if self._grammar is None:
            return True
        alone = _candidates(np.array([token]), logits[[token]])
        self._apply(self._grammar, alone)
        return bool(np.isfinite(alone["logit"][0]))

    def _apply(self, sampler: Any, candidates: npt.NDArray[np.void]) -> int:
        """Let a sampler work on candidates in place and return the token it selected, if it selects one."""
        data = candidates.ctypes.data_as(self._library.llama_token_data_p)
        array = self._library.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
        self._library.llama_sampler_apply(sampler, ctypes.byref(array))
        return int(array.data[array.selected].id) if array.selected >= 0 else -1

    def close(self) -> None:
        """Free the samplers."""
        for sampler in (self._grammar, self._draw):
            if sampler is not None:
                self._library.llama_sampler_free(sampler)
        self._grammar = self._draw = None


def _candidates(ids: npt.NDArray[Any], logits: Logits) -> npt.NDArray[np.void]:
    candidates = np.zeros(len(ids), dtype=_NESTED)
    candidates["id"], candidates["logit"] = ids, logits
    return candidates


def _drawing(library: Any, request: Request) -> Any:
    chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
    for sampler in (
        library.llama_sampler_init_top_k(_TOP_K),
        library.llama_sampler_init_top_p(_TOP_P, _MIN_KEEP),
        library.llama_sampler_init_min_p(_MIN_P, _MIN_KEEP),
        library.llama_sampler_init_temp(request.temperature),
        library.llama_sampler_init_dist((request.seed + request.sample) % _RANDOM_SEED),
    ):
        library.llama_sampler_chain_add(chain, sampler)
    return chain


def _grammar(model: GgufModel, schema: dict[str, Any]) -> Any:
    """Return the grammar of a schema, or of any JSON where llama.cpp has none for it: the answer is validated in any case."""
    from llama_cpp.llama_chat_format import _grammar_for_response_format
    from llama_cpp.llama_grammar import JSON_GBNF

    wanted = _grammar_for_response_format({"type": "json_object", "schema": _countable(schema)})
    texts = (wanted._grammar.encode(), JSON_GBNF.encode())
    make = model.library.llama_sampler_init_grammar
    return make(model.vocab, texts[0], b"root") or make(model.vocab, texts[1], b"root")


def _countable(node: Any) -> Any:
    """Return a schema without the counts that would make a grammar too large."""
    if isinstance(node, list):
        return [_countable(child) for child in node]
    if not isinstance(node, dict):
        return node
    return {key: _countable(child) for key, child in node.items() if not (key in _COUNTS and _too_large(child))}


def _too_large(count: Any) -> bool:
    return isinstance(count, int | float) and count > _LONGEST_COUNT


def logprobs(model: GgufModel, logits: Logits, token: int, top: int) -> TokenLogprob:
    """Return a token's natural log-probability and the likeliest ones, before any sampling."""
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    count = min(top, len(exact))
    likeliest = np.argpartition(-exact, count - 1)[:count]
    ranked = sorted((int(each) for each in likeliest), key=lambda each: (-exact[each], each))
    return TokenLogprob(
        token=token,
        text=_text(model, token),
        logprob=float(exact[token]),
        top=tuple((each, _text(model, each), float(exact[each])) for each in ranked),
    )


def _text(model: GgufModel, token: int) -> str:
    return model.piece(token).decode(errors="replace")
