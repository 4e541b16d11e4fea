"""Rules about schemas and answers: is the answer the JSON it must be, do tool calls fit, is it whole, is it an answer."""

from __future__ import annotations

from itertools import islice

from core.data.flaws import Flaw
from core.data.limits import RuleLimits
from core.data.phrases import find_phrase, open_words
from core.data.repetition import folded_words
from core.data.schemas import SchemaChecks, parse_json, schema_fault, value_fault
from core.data.subject import Subject, ToolCall
from core.data.text_rules import around

_NO_ANSWERS = {"n/a", "na", "undefined", "todo", "tbd", "null", "xxx", "idk"}
_OPEN_ENDS = ",:-–—(/«“"
_LIST_MARKS = ("-", "*", "•", "#", "|", ">", "–")
_LINE_WORDS = 6  # a last line of fewer words is a title, a signature, a list's item
_FENCE = "```"


def schema_missing(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The answer must be JSON and no schema says which."""
    if not subject.requires_json or subject.tool_schema:
        return None
    return Flaw("schema-missing", "tool_schema", subject.tool_schema, "requires_json is true, tool_schema is not there")


def schema_invalid(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The answer's schema cannot be used."""
    if not subject.requires_json or not subject.tool_schema:
        return None
    fault = schema_fault(subject.tool_schema)
    return Flaw("schema-invalid", "tool_schema", subject.tool_schema, f"tool_schema: {fault}") if fault else None


def answer_too_long(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The answer is longer than the limit."""
    length = len(subject.answer or "")
    if length <= limits.max_answer_chars:
        return None
    reason = f"the answer has {length} characters > data.rules.max_answer_chars {limits.max_answer_chars}"
    return Flaw("answer-too-long", "completion", subject.answer, reason)


def answer_not_json(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The answer must be JSON and is not."""
    if not subject.requires_json or subject.answer is None or subject.answer_calls:
        return None
    _, why = parse_json(subject.answer)
    if not why:
        return None
    return Flaw("answer-not-json", "completion", subject.answer, f"requires_json is true, the answer is no JSON: {why}")


def answer_misfits_schema(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The answer is JSON that its schema does not allow."""
    if not subject.requires_json or not subject.tool_schema or subject.answer is None or subject.answer_calls:
        return None
    value, why = parse_json(subject.answer)
    if why or not (fault := value_fault(subject.tool_schema, value)):
        return None
    return Flaw("answer-misfits-schema", "completion", subject.answer, f"the answer does not fit tool_schema: {fault}")


def tool_call_misfits(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """A tool call names no known tool, or its arguments do not fit the tool's schema."""
    checks = SchemaChecks()
    for call in subject.calls:
        if fault := _call_fault(subject, call, checks):
            return Flaw("tool-call-misfits", "messages", {"name": call.name, "arguments": call.arguments}, fault)
    return None


def _call_fault(subject: Subject, call: ToolCall, checks: SchemaChecks) -> str | None:
    if not isinstance(call.name, str) or not call.name:
        return "the tool call has no name"
    name = call.name[:60]
    if subject.tools and call.name not in subject.tools:
        return f"the call of {name!r} names no tool of the row: {', '.join(list(subject.tools)[:5])}"
    value, why = parse_json(call.arguments) if isinstance(call.arguments, str) else (call.arguments, None)
    if why:
        return f"the arguments of {name!r} are no JSON: {why}"
    if not isinstance(value, dict):
        return f"the arguments of {name!r} are no object"
    schema = subject.tools.get(call.name)
    fault = checks.fault(schema, value) if schema else None
    return f"the arguments of {name!r} do not fit its schema: {fault}" if fault else None


def truncated(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The answer stops in the middle of a sentence or of a code block."""
    text = subject.prose.rstrip()
    if not text:
        return None
    words = text.rsplit(None, limits.truncation_min_words)
    if len(words) < limits.truncation_min_words or not (why := _open_end(text, words[-1])):
        return None
    return Flaw("truncated", "completion", around(text, len(text), len(text)), f"the answer stops in the middle: {why}")


def _open_end(text: str, word: str) -> str | None:
    if text.count(_FENCE) % 2:
        return "a code block is not closed"
    last = text[-1]
    if word.startswith(("#", "@")) or "://" in word:
        return None
    if last in _OPEN_ENDS:
        return f"it ends with {last!r}"
    if word in open_words():  # not in capitals: `option A` is an end
        return f"it ends with {word!r}"
    line = text[text.rfind("\n") + 1 :].strip()
    is_prose = (
        len(line.split(None, _LINE_WORDS)) > _LINE_WORDS and not line.startswith(_LIST_MARKS) and not line[0].isdigit()
    )
    if is_prose and last.isalnum() and any(mark in text for mark in (". ", "! ", "? ", ".\n")):
        return "its last sentence has no end"
    return None


def refusal(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The answer refuses."""
    head = subject.prose[: limits.refusal_chars]
    if not head or not subject.phrased or not (place := find_phrase("refusal", head)):
        return None
    return Flaw("refusal", "completion", subject.prose, f"the answer refuses: {head[slice(*place)]!r}")


def boilerplate(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The answer holds what a model says about itself, or about nothing."""
    if not subject.prose or not subject.phrased or not (place := find_phrase("boilerplate", subject.prose)):
        return None
    said = subject.prose[slice(*place)]
    return Flaw("boilerplate", "completion", around(subject.prose, *place), f"the answer holds the empty phrase {said!r}")


def answer_in_prompt(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The answer stands word for word in the question."""
    if len(subject.prose) < limits.copied_min_chars:
        return None
    (asked, _), (_, said) = folded_words(subject.user), folded_words(subject.prose)
    if not said or said[0] not in asked or said[-1] not in asked or " ".join(said) not in " ".join(asked.split()):
        return None
    return Flaw("answer-in-prompt", "completion", subject.prose, "the answer stands word for word in the question")


def ratio_outlier(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The answer is out of all proportion to the prompt."""
    asked, said = len(subject.user) + len(subject.context or ""), len(subject.prose)
    if not said or max(asked, said) < limits.ratio_min_chars:
        return None
    if asked > limits.max_prompt_to_answer * said:
        reason = f"{asked} characters of prompt for {said} of answer > data.rules.max_prompt_to_answer"
        return Flaw("ratio-outlier", "completion", subject.answer, f"{reason} {limits.max_prompt_to_answer:g}")
    if said > limits.max_answer_to_prompt * asked:
        reason = f"{said} characters of answer for {asked} of prompt > data.rules.max_answer_to_prompt"
        return Flaw("ratio-outlier", "completion", subject.answer, f"{reason} {limits.max_answer_to_prompt:g}")
    return None


def degenerate_answer(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The answer says nothing: signs without a letter or digit, or a placeholder."""
    text = subject.prose
    if not text:
        return None
    if len(text) < 16 and text.strip().casefold() in _NO_ANSWERS:
        return Flaw("degenerate-answer", "completion", text, f"the answer is the placeholder {text.strip()!r}")
    signs = sum(1 for _ in islice(filter(str.isalnum, text), limits.min_answer_chars))
    if signs >= limits.min_answer_chars:
        return None
    reason = f"the answer has {signs} letters and digits < data.rules.min_answer_chars {limits.min_answer_chars}"
    return Flaw("degenerate-answer", "completion", text, reason)
