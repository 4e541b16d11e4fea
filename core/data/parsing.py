"""One line of a JSONL file to a record or a flaw: strict JSON, bounded depth. Files are read in readers.py."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from typing import Any, NoReturn

from core.data.flaws import Flaw

MAX_DEPTH = 64  # pydantic serialises to a depth of 255; nothing people write by hand comes near this


class _Refused(ValueError):
    """Carries a flaw's code out of the JSON decoder's hooks."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def parse_record(text: str) -> dict[str, Any] | Flaw:
    """Parse one record strictly: no duplicate keys, NaN, infinity, lone surrogates or deep nesting."""
    value = parse_value(text)
    if isinstance(value, dict | Flaw):
        return value
    return Flaw("json-not-object", None, text, f"the line holds a {_json_name(value)}, not an object")


def parse_value(text: str) -> Any:
    """Parse one JSON value as strictly, or return its Flaw."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        return _too_deep(text)
    except ValueError as error:
        return _broken(text, error)
    return unfit(text, value) or value


def _broken(text: str, error: ValueError) -> Flaw:
    if isinstance(error, _Refused):
        return Flaw(error.code, None, text, str(error))
    if not isinstance(error, json.JSONDecodeError):  # of Python's limit for whole numbers
        return Flaw("json-not-finite", None, text, f"a whole number has > {sys.get_int_max_str_digits()} digits")
    ends = "; its lines end with CR alone" if error.msg == "Extra data" and text[error.pos - 1] == "\r" else ""
    return Flaw("json-broken", None, text, f"no JSON: {error.msg.removesuffix(' at')} at column {error.colno}{ends}")


def unfit(text: str, value: Any) -> Flaw | None:
    """Return why a value that was parsed cannot be worked on: nested too deep, or half of a character in its text."""
    # no value is deeper than it has brackets, and counting those costs a hundredth of walking through it
    if text.count("{") + text.count("[") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        return _too_deep(text)
    if "\\u" in text and not _encodable(value):
        return Flaw("json-surrogate", None, text, "half of a surrogate pair stands alone")
    return None


def _too_deep(text: str) -> Flaw:
    return Flaw("json-too-deep", None, text, f"nested deeper than {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _Refused("json-duplicate-key", f"the key {twice[:80]!r} stands twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused("json-not-finite", f"{name} is no JSON value")


def finite(text: str) -> float:
    """Return a number; ValueError for one that is larger than any."""
    value = float(text)
    if not math.isfinite(value):
        raise _Refused("json-not-finite", f"{text[:40]} is larger than any number")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=finite)


def _deeper_than(value: Any, limit: int) -> bool:
    layer = [value]
    for _ in range(limit + 1):
        layer = [child for node in layer for child in _children(node)]
        if not layer:
            return False
    return True


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _json_name(value: object) -> str:
    names = {list: "list", str: "text", bool: "boolean", int: "number", float: "number", type(None): "null"}
    return names[type(value)]
