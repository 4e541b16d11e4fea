"""What is asked and what counts as an answer: prompts to requests, replies to completions, completions to the student's rows."""

from __future__ import annotations

from typing import Any

from core.config import LabelConfig
from core.contract import Contract
from core.data.record import LabeledRow, Message, PromptRow, Reject, messages_for, schema_of, student_messages
from core.data.schemas import parse_json, schema_fault, value_fault
from core.label.request import Reply, Request

_EXCERPT_CHARS = 200
_THOUGHT_END = "</think>"
UNASKED = "teacher-unasked"
_REMEDIES = {
    UNASKED: "Mend what the others name, then run again: they are asked then.",
    "teacher-length": "Raise label.max_tokens, or ask for a shorter answer in the prompt.",
    "teacher-empty": "Ask another teacher, or mend the prompt.",
    "teacher-json": "Ask a stronger teacher, or simplify tool_schema.",
    "teacher-filter": "The teacher refuses this prompt; mend it or leave it out.",
    "teacher-error": "Run edgekiln label --force label when the teacher is back: only what is missing is asked.",
    "teacher-context": "Shorten the prompt, or ask a teacher with a longer context.",
    "teacher-refused": "The teacher takes no request of this kind; read its reason.",
    "teacher-tool-call": "Ask a stronger teacher, or one behind an endpoint that reads its tool calls.",
    "discarded": "Run edgekiln label --force label: what was discarded is asked again.",
    "personal-data-excess": "Look at the row: it is a list of personal data; raise data.privacy.max_values to keep it.",
    "personal-data-unchecked": "Update or uninstall the package that its reason names, or take name out of data.privacy.kinds.",
    "bad-schema": "Mend the row's tool_schema; it must be a JSON Schema without remote references.",
}


class Problem(Contract):
    """Why a reply is no answer, by its reject code."""

    code: str
    reason: str


def first_request(row: PromptRow, teacher: str, config: LabelConfig, sample: int = 0) -> Request:
    """Return the request that asks for a row's completion; each further sample has a seed of its own."""
    return Request(
        teacher=teacher,
        messages=messages_for(row),
        temperature=config.temperature,
        max_tokens=config.max_tokens,
        seed=config.seed + sample,
        sample=sample,
        top_logprobs=config.top_logprobs,
        extra_body=config.extra_body,
        answer_schema=schema_of(row),
        tools=row.tools,
    )


def second_request(first: Request, reply: Reply, problem: Problem) -> Request | None:
    """Return the one further request after an unusable reply, None when asking again cannot help.

    A cut answer is asked for shorter; JSON that does not fit is shown to the teacher with its fault.
    """
    *head, last = first.messages
    if problem.code == "teacher-length":
        words = max(8, first.max_tokens // 4)
        wish = f"Use at most {words} words."
        if last.role != "user":  # a tool's result is left as it is
            return first.model_copy(update={"messages": (*first.messages, Message(role="user", content=wish))})
        shorter = last.model_copy(update={"content": f"{last.content}\n\n{wish}"})
        return first.model_copy(update={"messages": (*head, shorter)})
    if problem.code == "teacher-json":
        said = Message(role="assistant", content=reply.text)
        fault = Message(role="user", content=f"That does not fit: {problem.reason}. Answer again with only the JSON.")
        return first.model_copy(update={"messages": (*first.messages, said, fault)})
    return None


def completion_of(reply: Reply, schema: dict[str, Any] | None) -> str | Problem:
    """Return the completion in a reply, or why there is none; empty beside tool calls. Thoughts are left out."""
    if reply.finish_reason == "length":
        return Problem(code="teacher-length", reason=f"cut off at {reply.completion_tokens} tokens")
    if reply.finish_reason == "content_filter":
        return Problem(code="teacher-filter", reason="the endpoint's content filter stopped the answer")
    text = reply.text.rpartition(_THOUGHT_END)[2].strip()
    if not text and not reply.tool_calls:
        return Problem(code="teacher-empty", reason=f"empty answer, finish_reason {reply.finish_reason}")
    if schema is not None and not reply.tool_calls and (fault := _json_fault(text, schema)):
        return Problem(code="teacher-json", reason=fault)
    return text


def schema_problem(row: PromptRow) -> Problem | None:
    """Return why a row's schema cannot be used, before anything is asked."""
    if (schema := schema_of(row)) is None:
        return None
    fault = schema_fault(schema)
    return Problem(code="bad-schema", reason=_short(fault)) if fault else None


def _json_fault(text: str, schema: dict[str, Any]) -> str | None:
    value, why = parse_json(text)
    fault = f"not JSON: {why}" if why else value_fault(schema, value)
    return _short(fault) if fault else None


def _short(text: str) -> str:
    return " ".join(text.split())[:_EXCERPT_CHARS]


def labeled(
    row: PromptRow, completion: str, context_distillation: bool, tool_calls: tuple[dict[str, Any], ...] = ()
) -> LabeledRow:
    """Return the chat the student learns; with context distillation it must answer without hint and context."""
    asked = student_messages(row, context_distillation)
    return LabeledRow(
        row_id=row.row_id,
        split=row.split,
        messages=(*asked, Message(role="assistant", content=completion, tool_calls=tool_calls)),
        requires_json=row.requires_json,
        tool_schema=row.tool_schema,
        tools=row.tools,
    )


def set_aside(row: PromptRow, problem: Problem) -> Reject:
    """Return the record of a row that got no answer."""
    return Reject(
        where=row.row_id,
        code=problem.code,
        field="tool_schema" if problem.code == "bad-schema" else "completion",
        excerpt=row.user[:_EXCERPT_CHARS],
        reason=problem.reason,
        remedy=_REMEDIES[problem.code],
    )
