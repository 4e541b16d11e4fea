"""Rules about any text of a row: is it there, does it fit, are its characters, language and references right."""

from __future__ import annotations

from collections.abc import Iterator

from core.data.encoding import control_character_in, mojibake_in
from core.data.flaws import EXCERPT_CHARS, Flaw
from core.data.languages import languages_in
from core.data.limits import RuleLimits
from core.data.linear import compiled
from core.data.phrases import find_phrase
from core.data.repetition import repetition_of
from core.data.subject import Subject

_BLANK = " \t\r\n\v\f\x00\u00a0\u00ad\u115f\u1160\u200b\u200c\u200d\u2060\u2800\u3000\u3164\ufeff"
_NULLS = {"nan", "null", "<na>", "#n/a", "#value!", "nat"}
_WRONG_SHARE = 0.8  # above it the text is in another language, below it in two
_MARKUP = compiled(
    r"<\|[a-zA-Z_]{2,24}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|(?m:^### (?:Instruction|Response):)"
)
_LOCAL = ("://localhost", "://127.", "://0.0.0.0", "://example.", "://www.example.", "://[::1]")
_URL_ENDS = ".,;:!?)>]}\"'»”’`*"


def around(text: str, start: int, end: int) -> str:
    """Return the part of a text that shows what stands at a place, at most an excerpt long."""
    first = max(0, start - (EXCERPT_CHARS - min(EXCERPT_CHARS, end - start)) // 2)
    return text[first : first + EXCERPT_CHARS]


def is_blank(text: str) -> bool:
    """Say whether a text shows nothing: white space, invisible characters."""
    return not text or ((text[0] in _BLANK or text.isspace()) and not text.strip(_BLANK).strip())


def empty_user(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The question is empty."""
    if not is_blank(subject.user):
        return None
    return Flaw("empty-user", "user", subject.user, "the question is empty")


def empty_completion(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The answer is empty and calls no tool."""
    if subject.answer is None or subject.answer_calls or not is_blank(subject.answer):
        return None
    return Flaw("empty-completion", "completion", subject.answer, "the answer is empty")


def null_text(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """A text is what a table writes where it has no value."""
    for field, text in subject.texts:
        if len(text) < 12 and text.strip().casefold() in _NULLS and not (subject.requires_json and field == "completion"):
            return Flaw("null-text", field, text, f"{field} is {text.strip()!r}, what a table writes for no value")
    return None


def too_long(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """Hint, context, earlier turns and question are longer than the limit."""
    length = len(subject.system or "") + len(subject.context or "") + len(subject.user)
    length += sum(len(text) for _, text in subject.turns)
    if length <= limits.max_prompt_chars:
        return None
    reason = f"prompt with context has {length} characters > data.rules.max_prompt_chars {limits.max_prompt_chars}"
    return Flaw("too-long", "user", subject.user, reason)


def mojibake(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """Text was decoded with the wrong encoding."""
    for field, text in subject.texts:
        if (meant := mojibake_in(text)) is not None:
            start = next((place for place, (a, b) in enumerate(zip(text, meant, strict=False)) if a != b), 0)
            shown = around(meant, start, start)[: EXCERPT_CHARS // 2]
            why = f"meant was {shown!r}" if meant != text else "beyond mending"
            return Flaw("mojibake", field, around(text, start, start), f"{field} was read in the wrong encoding: {why}")
    return None


def control_characters(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """A text holds a character that no keyboard writes."""
    for field, text in subject.texts:
        if (place := control_character_in(text)) is not None:
            what = "a lost character" if text[place] == "\ufffd" else "a control character"
            reason = f"{field} holds {what}, U+{ord(text[place]):04X}, at {place + 1}"
            return Flaw("control-characters", field, around(text, place, place), reason)
    return None


def chat_markup(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """A text holds the marks of a chat template, which the student's template would write a second time."""
    for field, text in subject.texts:
        if ("<" in text or "[" in text or "###" in text) and (found := _MARKUP.search(text)):
            reason = f"{field} holds the chat template's mark {found.group()[:40]!r}"
            return Flaw("chat-markup", field, around(text, *found.span()), reason)
    return None


def language(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """A text is wholly or in part in a language that is not configured."""
    for field, text in subject.spoken if limits.languages else ():
        if len(text) < limits.language_min_chars:
            continue
        found = languages_in(text, limits)
        foreign = {code: count for code, count in found.items() if code not in limits.languages}
        share = sum(foreign.values()) / max(1, found.total())
        if share > limits.max_foreign_share:
            other = max(foreign, key=lambda code: (foreign[code], code))
            how = f"is in {other}" if share > _WRONG_SHARE else f"is {share:.0%} in {other} > data.rules.max_foreign_share"
            return Flaw("language", field, text, f"{field} {how}, data.rules.languages is {', '.join(limits.languages)}")
    return None


def repetition(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The question or the answer repeats itself."""
    for field, text in subject.spoken:
        if found := repetition_of(text, limits):
            return Flaw("repetition", field, found[0], f"{field}: {found[1]}")
    return None


def missing_text(subject: Subject, limits: RuleLimits) -> Flaw | None:
    """The question points to a text that does not follow."""
    if subject.context or not subject.phrased or not (place := find_phrase("missing_text", subject.user)):
        return None
    start, end = place
    marks = [subject.user.find(mark, end) for mark in ":\n\"«“'`>"]
    first = min((mark for mark in marks if mark >= 0), default=-1)
    there = first >= 0 and len(subject.user[first + 1 :].strip()) >= limits.missing_text_chars
    if there or "\n" in subject.user[:start].strip():
        return None
    phrase = subject.user[start:end]
    return Flaw(
        "missing-text", "user", around(subject.user, start, end), f"the question names {phrase!r}, which is not there"
    )


def missing_image(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """Question or answer point to a picture; the student sees none."""
    for field, text in subject.spoken:
        if (
            found := (find_phrase("missing_image", text) if subject.phrased else None)
            or _span(text, "![")
            or _span(text, "<image>")
            or _span(text, "<img ")
        ):
            reason = f"{field} points to a picture, {text[slice(*found)]!r}, and rows hold none"
            return Flaw("missing-image", field, around(text, *found), reason)
    return None


def missing_url(subject: Subject, _limits: RuleLimits) -> Flaw | None:
    """The question points to a page no tool opens, or the answer to one the prompt does not name."""
    asked = set(_urls(subject.user))
    if asked and not subject.context and not subject.tools:
        url = min(asked)
        return Flaw("missing-url", "user", url, f"the question names {url[:80]}, whose content is not there")
    given = asked | set(_urls(subject.context or "")) | set(_urls(subject.system or ""))
    made_up = [] if subject.tools else [url for url in _urls(subject.prose) if url not in given]
    if not made_up:
        return None
    return Flaw("missing-url", "completion", made_up[0], f"the answer names {made_up[0][:80]}, which the prompt does not")


def _span(text: str, mark: str) -> tuple[int, int] | None:
    place = text.find(mark)
    return (place, place + len(mark)) if place >= 0 else None


def _urls(text: str) -> Iterator[str]:
    if "://" not in text and "www." not in text:
        return
    for word in text.split():
        if ("://" in word or word.startswith("www.")) and not any(local in word for local in _LOCAL):
            start = max(word.find("http"), 0) if "://" in word else 0
            yield word[start:].rstrip(_URL_ENDS)
