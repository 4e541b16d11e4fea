"""JSON Schemas as limits on the next token of an answer, by llguidance (MIT), which vLLM, SGLang and llama.cpp use too."""

from __future__ import annotations

import json
from typing import Any

from core.errors import TeacherFailed

# between JSON's parts; free white space lets a model write line breaks for ever
_SPACE = r"( |\n {0,16})"


class Grammar:
    """Where an answer stands in its schema."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed(self) -> bytes:
        """Return a byte for each token of the vocabulary, 0 for one that cannot come next."""
        return bytes(self._matcher.compute_logit_bias())

    def accept(self, token: int) -> bool:
        """Go on by a token; True when the answer is whole and nothing can follow."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())

    def fault(self) -> str | None:
        """Return why the grammar cannot go on, None when it can: a schema may ask for more than the parser's limits allow."""
        return _short(self._matcher.get_error()) if self._matcher.is_error() else None


class Grammars:
    """Makes grammars for one tokenizer."""

    def __init__(self, tokenizer: Any, vocabulary: int, ends: list[int]) -> None:
        self._named = (tokenizer, vocabulary, ends)
        self._tokenizer: Any = None

    def of(self, schema: dict[str, Any]) -> Grammar:
        """Return a fresh grammar of a schema; its `fault` says when there can be none.

        Keywords that llguidance does not know are left to the validation of the answer.
        """
        from llguidance import LLMatcher

        if self._tokenizer is None:
            self._tokenizer = self._made()
        options: Any = {"lenient": True, "whitespace_pattern": _SPACE}
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=options)
        return Grammar(LLMatcher(self._tokenizer, grammar, log_level=0))

    def _made(self) -> Any:
        from llguidance.hf import from_tokenizer

        tokenizer, vocabulary, ends = self._named
        try:
            return from_tokenizer(tokenizer, n_vocab=vocabulary, eos_token=ends)
        except ValueError as error:
            raise TeacherFailed(
                f"the teacher's tokenizer cannot be held to a JSON Schema: {_short(str(error))}",
                remedy="Name a teacher with a tokenizer.json, or ask it behind an endpoint with label.backend openai.",
            ) from error


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
