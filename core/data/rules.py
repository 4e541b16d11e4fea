"""What makes a draft unusable. Errors only: a row that breaks a rule is set aside; duplicates are found in validate.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jsonschema import SchemaError
from jsonschema.validators import Draft202012Validator, validator_for

from core.data.flaws import Flaw
from core.data.shapes import Draft

Rule = Callable[[Draft, int], Flaw | None]


def judge_draft(draft: Draft, max_chars: int) -> Flaw | None:
    """Return the first rule's flaw, or None for a row that is kept."""
    return next((flaw for rule in _RULES if (flaw := rule(draft, max_chars))), None)


def _has_user(draft: Draft, _max_chars: int) -> Flaw | None:
    return None if draft.user.strip() else Flaw("empty-user", "user", draft.user, "the question is empty")


def _has_answer_if_any(draft: Draft, _max_chars: int) -> Flaw | None:
    if draft.completion is None or draft.completion.strip():
        return None
    return Flaw("empty-completion", "completion", draft.completion, "the answer is empty")


def _fits(draft: Draft, max_chars: int) -> Flaw | None:
    length = len(draft.system or "") + len(draft.context or "") + len(draft.user)
    if length <= max_chars:
        return None
    return Flaw("too-long", "user", draft.user, f"prompt with context has {length} characters > data.max_chars {max_chars}")


def _has_schema(draft: Draft, _max_chars: int) -> Flaw | None:
    if not draft.requires_json:
        return None
    if not draft.tool_schema:
        return Flaw("schema-missing", "tool_schema", draft.tool_schema, "requires_json is true, tool_schema is not there")
    why = _schema_fault(draft.tool_schema)
    return Flaw("schema-invalid", "tool_schema", draft.tool_schema, why) if why else None


def _schema_fault(schema: dict[str, Any]) -> str | None:
    dialect = schema.get("$schema", "")
    if not isinstance(dialect, str):
        return "tool_schema.$schema is not a text"
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        return f"tool_schema{'.' if place else ''}{place}: {error.message[:120]}"
    return None


_RULES: tuple[Rule, ...] = (_has_user, _has_answer_if_any, _fits, _has_schema)
