"""Every reason a row is set aside, with its remedy, and how a flaw becomes a Reject. What counts as one is decided in rules.py."""

from __future__ import annotations

from dataclasses import dataclass

from core.contract import Severity
from core.data.record import Reject

EXCERPT_CHARS = 200

REMEDIES = {
    "json-broken": "Write one whole JSON object on each line, and end lines with LF or CRLF.",
    "json-not-object": "Write a JSON object, not a list, a number or a text.",
    "json-duplicate-key": "Keep one of the two values.",
    "json-not-finite": "Replace NaN, infinity and numbers of thousands of digits by a number, a text or null.",
    "json-too-deep": "Flatten the record.",
    "json-surrogate": "Write the character itself, or both halves of its \\u escape.",
    "json-unclosed": "Close the array; the file may have been cut off.",
    "json-behind-end": "Write one array, with nothing behind it.",
    "csv-broken": "Close each quote, double the quotes inside a quoted cell, and end lines with LF or CRLF.",
    "row-ragged": "Give the row as many cells as the header has names; quote cells that hold the separator.",
    "header-duplicate": "Rename one of the two columns.",
    "field-not-utf8": "Write the column's texts as UTF-8.",
    "line-too-long": "Split the record, or raise data.rules.max_prompt_chars.",
    "shape-unknown": "Give the record `user`, `messages`, `conversations`, `instruction` or `prompt`, or name its shape: data.shape.",
    "field-wrong-type": "Give the field the type that the message names, or take it out.",
    "empty-user": "Write the question, or remove the record.",
    "empty-completion": "Write the answer, or remove the field.",
    "role-unknown": "Use the roles system, user, assistant and tool (ShareGPT: human, gpt, function_call, observation).",
    "system-not-first": "Put the one system message first.",
    "empty-content": "Write the turn's text, or remove the turn.",
    "chat-no-question": "Give the chat a user turn.",
    "first-turn-not-user": "Begin the chat, after the system message, with the user's turn.",
    "role-repeated": "Join the two turns, or put the missing one between them.",
    "tool-without-call": "Put the assistant's tool_calls before the tool's result.",
    "tool-call-broken": "Write each call with `name` and `arguments`, an object or its JSON text.",
    "schema-missing": "Add `tool_schema`, or set `requires_json` to false.",
    "schema-invalid": "Mend `tool_schema` so that it is a JSON Schema; patterns cannot look around, references cannot leave it.",
    "too-long": "Shorten the prompt or its context, or raise data.rules.max_prompt_chars.",
    "not-utf8": "Save the file as UTF-8: iconv -f FROM -t UTF-8, FROM being the encoding it was written in.",
    "personal-data-excess": "Look at the row: it is a list of personal data; raise data.privacy.max_values to keep it.",
    "personal-data-unchecked": "Mend or replace the package that finds names, or take name out of data.privacy.kinds.",
    "answer-missing": "Write the answer as the last turn, or set data.answers to optional, so that the teacher is asked.",
    "answer-elsewhere": "Rename the field to `completion`, or to `output` beside `instruction`; as it is, the teacher will be asked.",
    "near-duplicate": "Remove one of the two, or let them differ more; both are on one side of the split.",
    "split-overlap": "Remove one of the two rows, or the passage both hold, so that the held-out rows stay unseen.",
    "contamination": "Remove the row, or what it took from the evaluation file, or the figures of that file say nothing.",
    "no-trainable-token": "Shorten the prompt, or raise train.max_length.",
    "no-end-of-turn": "Use a student whose chat template ends a turn with a special token such as its eos_token.",
    "bos-twice": "Take the token out of the text, or out of the student's chat template: it is written twice.",
    "template-refuses": "Bring the turns into the order the student's chat template wants, or name another student.",
    "answer-cut": "Shorten the answer or its prompt, or raise train.max_length.",
    "duplicate": "Remove one of the two records.",
    "dropped": "A review decided so; to have the row back, take in its decision `forget`: edgekiln data review --take FILE.",
    "null-text": "Write the text, or remove the record.",
    "answer-too-long": "Shorten the answer, or raise data.rules.max_answer_chars.",
    "answer-not-json": "Write the answer as the JSON alone, or set `requires_json` to false.",
    "answer-misfits-schema": "Mend the answer, or the schema if the answer is right.",
    "tool-call-misfits": "Mend the call's name and arguments, or the tool's `parameters`.",
    "mojibake": "Save the source again as UTF-8, or mend the text with ftfy.",
    "control-characters": "Remove the character, or write the one that was lost.",
    "chat-markup": "Remove the mark: the student's chat template writes its own.",
    "language": "Translate or remove the text, or add its language to data.rules.languages.",
    "repetition": "Write the text once.",
    "missing-text": "Put the text into `context`, or into the question after a colon.",
    "missing-image": "Describe the picture in words, or remove the record.",
    "missing-url": "Put what the page says into `context`, or remove the address.",
    "truncated": "Finish the answer, or raise the limit it was written under.",
    "refusal": "Write an answer, or remove the record.",
    "boilerplate": "Remove the phrase.",
    "answer-in-prompt": "Take the answer out of the question.",
    "ratio-outlier": "Look at the pair: one side may be cut off or belong to another record.",
    "degenerate-answer": "Write an answer, or remove the record.",
}


@dataclass(frozen=True)
class Flaw:
    """What is wrong with a row; an error sets it aside, a warning keeps it. `value` is what was found in `field`.

    Without a `remedy` of its own, `code` is a key of REMEDIES.
    """

    code: str
    field: str | None
    value: object
    reason: str
    severity: Severity = Severity.ERROR
    remedy: str = ""

    def at(self, where: str, row_id: str | None = None, texts: dict[str, str] | None = None) -> Reject:
        """Return the reject for the place the row was read from; `texts` are the row's own, for whoever mends it."""
        text = self.value if isinstance(self.value, str) else repr(self.value)
        return Reject(
            where=where,
            code=self.code,
            field=self.field,
            excerpt=text[:EXCERPT_CHARS],
            reason=self.reason,
            remedy=self.remedy or REMEDIES[self.code],
            severity=self.severity,
            row_id=row_id,
            texts=texts,
        )
