"""Text from strangers made safe to show: a control character becomes its escape, so that it cannot drive a terminal."""

from __future__ import annotations

import unicodedata

_DRIVING = {"Cc", "Cf", "Cs"}  # control, direction and format characters, halves of surrogate pairs


def visible(text: str, keep: str = "") -> str:
    """Return a text with every control and direction character but those to keep written out, such as \\x1b."""
    return "".join(_escaped(c) if unicodedata.category(c) in _DRIVING and c not in keep else c for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
