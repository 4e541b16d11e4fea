"""Every reason a row is set aside, with its remedy, and how a flaw becomes a Reject. What counts as one is decided in rules.py."""

from __future__ import annotations

from dataclasses import dataclass

from core.data.record import Reject

EXCERPT_CHARS = 200

REMEDIES = {
    "json-broken": "Write one whole JSON object on each line.",
    "json-not-object": "Write a JSON object, not a list, a number or a text.",
    "json-duplicate-key": "Keep one of the two values.",
    "json-not-finite": "Replace NaN and infinity by a number or by null.",
    "json-too-deep": "Flatten the record.",
    "json-surrogate": "Write the character itself, or both halves of its \\u escape.",
    "line-too-long": "Split the record, or raise data.max_chars.",
    "shape-unknown": "Give the record `user`, `prompt` or `messages`, or name its shape with data.shape.",
    "field-wrong-type": "Give the field the type that the message names.",
    "empty-user": "Write the question, or remove the record.",
    "empty-completion": "Write the answer, or remove the field.",
    "role-unknown": "Use the roles system, user and assistant.",
    "system-not-first": "Put the one system message first.",
    "chat-not-one-turn": "Cut the chat into one question and at most one answer each.",
    "schema-missing": "Add `tool_schema`, or set `requires_json` to false.",
    "schema-invalid": "Mend `tool_schema` so that it is a JSON Schema.",
    "too-long": "Shorten the prompt or its context, or raise data.max_chars.",
    "duplicate": "Remove one of the two records.",
}


@dataclass(frozen=True)
class Flaw:
    """Why a row cannot be used; `code` is a key of REMEDIES, `value` what was found in `field`."""

    code: str
    field: str | None
    value: object
    reason: str

    def at(self, where: str) -> Reject:
        """Return the reject for the place the row was read from."""
        text = self.value if isinstance(self.value, str) else repr(self.value)
        return Reject(
            where=where,
            code=self.code,
            field=self.field,
            excerpt=text[:EXCERPT_CHARS],
            reason=self.reason,
            remedy=REMEDIES[self.code],
        )
