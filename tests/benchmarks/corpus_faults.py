"""The faults planted in the generated corpus: each takes a clean row and gives a row, or the bytes of its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.benchmarks.corpus_words import BOILERPLATE, EN_NOUN, FR_NOUN, GERMAN, REFUSAL

Row = dict[str, Any]
Fault = Callable[[Row, Random], "Row | bytes"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "guests": {"type": "integer"}},
    "required": ["city", "guests"],
    "additionalProperties": False,
}
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_LONG_CHARS = 6_000
_OVER_LONG_CHARS = 20_000


def line_of(row: Row) -> bytes:
    """Return a row as the bytes of its line."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def as_tool_call(row: Row) -> Row:
    """Return the row as a chat that calls a tool with arguments that fit its schema."""
    arguments = json.dumps({"city": "Montréal", "guests": len(row["messages"][-1]["content"]) % 9 + 1}, ensure_ascii=False)
    call = {"id": "call_1", "type": "function", "function": {"name": "reserve_table", "arguments": arguments}}
    tool = {"type": "function", "function": {"name": "reserve_table", "parameters": SCHEMA}}
    turns = [*row["messages"][:-1], {"role": "assistant", "content": "", "tool_calls": [call]}]
    return {**row, "messages": turns, "tools": [tool]}


def edited(row: Row, rate: float, rng: Random) -> Row:
    """Replace, drop, double or misspell that share of the words of question and answer, at least one."""
    words = [turn["content"].split(" ") for turn in row["messages"][1:]]
    places = [(turn, place) for turn, text in enumerate(words) for place in range(len(text))]
    for _ in range(max(1, round(rate * len(places)))):
        turn, place = places.pop(int(rng.random() * len(places)))
        words[turn][place] = _edit(words[turn][place], rng)
    for turn, text in zip(row["messages"][1:], words, strict=True):
        turn["content"] = " ".join(word for word in text if word)
    return row


def _edit(word: str, rng: Random) -> str:
    other = (EN_NOUN + FR_NOUN)[int(rng.random() * len(EN_NOUN + FR_NOUN))]
    place = int(rng.random() * len(word))
    letter = _ALPHABET[int(rng.random() * 26)]
    misspelt = word[:place] + letter + word[place + 1 :]
    return (other, "", f"{word} {other}", misspelt)[int(rng.random() * 4)]


def respaced(row: Row, rng: Random) -> Row:
    """Change case and white space only, or nothing at all."""
    way = int(rng.random() * 3)
    for turn in row["messages"][1:]:
        turn["content"] = (turn["content"], turn["content"].upper(), turn["content"].replace(" ", "  "))[way]
    return row


def _with(turn: int, content: object) -> Fault:
    def plant(row: Row, _rng: Random) -> Row:
        row["messages"][turn]["content"] = content
        return row

    return plant


def _said(turn: int, say: Callable[[str, Row], str]) -> Fault:
    def plant(row: Row, _rng: Random) -> Row:
        message = row["messages"][turn]
        message["content"] = say(message["content"] or "See the table", row)
        return row

    return plant


def _turns(arrange: Callable[[list[Row]], list[Row]]) -> Fault:
    return lambda row, _rng: {**row, "messages": arrange(row["messages"])}


def _bytes(write: Callable[[bytes], bytes]) -> Fault:
    return lambda row, _rng: write(line_of(row))


def _tool_arguments(row: Row, _rng: Random) -> Row:
    called = as_tool_call(row) if "tools" not in row else row
    called["messages"][-1]["tool_calls"][0]["function"]["arguments"] = '{"city": 12, "guests": "many"}'
    return called


def _json_asked(answer: str, schema: object) -> Fault:
    def plant(row: Row, _rng: Random) -> Row:
        row["messages"][-1] = {"role": "assistant", "content": answer}
        asked = {name: value for name, value in row.items() if name != "tools"} | {"requires_json": True}
        return asked if schema is None else asked | {"tool_name": "ReserveTable", "tool_schema": schema}

    return plant


def _filled(text: str, chars: int) -> str:
    # numbered, so that it is long without being a repetition
    pieces, length = [], 0
    while length < chars:
        pieces.append(f"{len(pieces) + 1}) {text}")
        length += len(pieces[-1]) + 1
    return " ".join(pieces)[:chars]


def _mixed(text: str, _row: Row) -> str:
    return f"{text} {GERMAN[len(text) % len(GERMAN)]} {GERMAN[(len(text) + 3) % len(GERMAN)]}"


def _mojibake(text: str, _row: Row) -> str:
    return f"Voilà l’été: {text}".encode().decode("cp1252", "replace").replace("\ufffd", "")


def _german(row: Row, rng: Random) -> Row:
    for turn, count in ((row["messages"][1], 3), (row["messages"][2], 5)):
        start = int(rng.random() * len(GERMAN))
        turn["content"] = " ".join(GERMAN[(start + n) % len(GERMAN)] for n in range(count))
    return row


def _answer_first(row: Row, _rng: Random) -> Row:
    answer = row["messages"][-1]["content"] or "The table is reserved for four people on Tuesday."
    row["messages"][-1] = {"role": "assistant", "content": answer}
    row["messages"][1]["content"] += f" {answer}"
    return row


_BY_FORM: dict[str, Fault] = {
    "json-broken": _bytes(lambda line: line[: len(line) // 2].decode("utf-8", "ignore").encode() + b"\n"),
    "not-utf8": _bytes(lambda line: line.replace(b'"content": "', b'"content": "\xff\xfe', 1)),
    "json-duplicate-key": _bytes(lambda line: b'{"language": "en", ' + line[1:]),
    "json-surrogate": _bytes(lambda line: b'{"note": "\\ud800", ' + line[1:]),
    "json-too-deep": _bytes(lambda line: b'{"note": ' + b"[" * 100 + b"]" * 100 + b", " + line[1:]),
    "json-not-finite": _bytes(lambda line: b'{"weight": NaN, ' + line[1:]),
    "json-not-object": _bytes(lambda line: b"[" + line.strip() + b"]\n"),
    "shape-unknown": lambda row, _rng: {"text": row["messages"][1]["content"]},
    "null-text": _with(1, None),
    "role-unknown": _turns(lambda turns: [turns[0], {**turns[1], "role": "narrator"}, turns[2]]),
    "system-not-first": _turns(lambda turns: [turns[1], turns[0], turns[2]]),
    "same-role-twice": _turns(lambda turns: [*turns[:2], {"role": "user", "content": "And why is that?"}, turns[2]]),
    "last-not-assistant": _turns(lambda turns: [*turns, {"role": "user", "content": "Thank you, that was useful."}]),
    "empty-user": _with(1, " \n\t "),
    "empty-completion": _turns(lambda turns: [*turns[:2], {"role": "assistant", "content": "  "}]),
    "no-trainable-token": _said(1, lambda text, _row: _filled(text, _LONG_CHARS)),
    "too-long": _said(1, lambda text, _row: _filled(text, _OVER_LONG_CHARS)),
    "tool-arguments": _tool_arguments,
    "schema-missing": _json_asked('{"city": "Lyon", "guests": 4}', None),
    "schema-invalid": _json_asked('{"city": "Lyon", "guests": 4}', {"type": "objekt"}),
    "answer-not-json": _json_asked("The table is reserved for four people.", SCHEMA),
    "answer-not-that-json": _json_asked('{"city": "Lyon", "guests": "four"}', SCHEMA),
}
TEXT_FAULTS: dict[str, Fault] = {
    "mojibake": _said(-1, _mojibake),
    "control-characters": _said(-1, lambda text, _row: text.replace(" ", "\x07 ", 1) + "\x1b[0m"),
    "special-token": _said(1, lambda text, _row: f"<|im_start|>{text}<|im_end|>"),
    "wrong-language": _german,
    "mixed-language": _said(-1, _mixed),
    "truncated": _said(-1, lambda text, _row: text[:-9].rstrip()),
    "refusal": _said(-1, lambda _text, row: REFUSAL[row["language"]]),
    "boilerplate": _said(-1, lambda text, row: f"{text} {BOILERPLATE[row['language']]}"),
    "missing-url": _said(
        1, lambda text, _row: f"{text} Summarise the article at https://www.gazette-du-matin.com/story-17.html"
    ),
    "missing-image": _said(1, lambda text, _row: f"{text} What is shown in the image above? ![photo](photo.png)"),
    "repetition": _said(-1, lambda text, _row: " ".join([text.partition(".")[0] + "."] * 8)),
    "answer-in-prompt": _answer_first,
    "length-ratio": _with(-1, "Ok."),
    "pii-email": _said(1, lambda text, _row: f"{text} Write to marie.tremblay@example.org."),
    "pii-phone": _said(1, lambda text, _row: f"{text} Call me at +1 514 555 0199."),
    "pii-ip": _said(1, lambda text, _row: f"{text} The router is at 203.0.113.77."),
    "pii-card": _said(1, lambda text, _row: f"{text} The card is 4111 1111 1111 1111."),
    "pii-iban": _said(1, lambda text, _row: f"{text} Pay to FR14 2004 1010 0505 0001 3M02 606."),
    "pii-national-id": _said(1, lambda text, _row: f"{text} My social insurance number is 130 692 544."),
    "secret-key": _said(1, lambda text, _row: f"{text} Use the key AKIA" + "Q4ZT7LMN2PXW8RVK for it."),
}
FAULTS: dict[str, Fault] = {**_BY_FORM, **TEXT_FAULTS}
