"""What pydantic's validation errors are called for a person: the key, what is wrong, and the value where it may be shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_SHOWN_CHARS = 200
_SECRETIVE = ("_env", "_envs", "url")  # a value put here by mistake may be the secret itself, so it is never repeated
_CREDENTIAL = re.compile(
    r"\bhf_\w+|(?<=[?&=])[^\s&='\"]{16,}|(?<=//)[^/\s@]*@"
)  # a token, a value in a query, user and password
_PLAIN_WORDS = {"tuple_type": "is no list", "model_type": "is no section of keys", "string_type": "is no text"}


def describe(detail: ErrorDetails, hint: Callable[[str], str]) -> str:
    """Return a mistake with its key; `hint` gives what follows an unknown key. A value that may be a secret is left out."""
    key = ".".join(str(part) for part in detail["loc"]) or "the whole"
    match detail["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key{hint(key)}"
        case "missing":
            return f"{key}: missing"
        case "value_error":
            why = detail["msg"].removeprefix("Value error, ")
        case kind:
            why = _PLAIN_WORDS.get(kind, detail["msg"])
    secretive = any(str(part).endswith(_SECRETIVE) for part in detail["loc"])
    if secretive or isinstance(detail["input"], Mapping | BaseModel):
        return f"{key}: {why}"
    return f"{key}={shortened(_CREDENTIAL.sub('<hidden>', repr(detail['input'])))}: {why}"


def shortened(text: str) -> str:
    """Return the beginning of a long text."""
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."
