"""Text that may come from a stranger's file, made safe to show: it cannot drive a terminal or turn the line around."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    """Return text with control, direction and half characters replaced; line breaks stay."""
    return "".join("�" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n" else c for c in text)
